"""Whether the caller may read the logs of the jobs. Called by the hook before it submits a job.

Without the logs, no line of a step is shown, and the receipt of a success is missing: then only results
without pickle can be loaded. A user should know that before the step has run for hours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.sagemaker import policies
from airflow_stepop.hooks.sagemaker.job_logs import GROUP, limits
from airflow_stepop.hooks.sagemaker.service import api_error

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.hooks.common.rate_limit import RateLimit

_asked: WeakSet[AwsClients] = WeakSet()  # those that this process has asked with


def refused_reads(clients: AwsClients) -> str:
    """Return a warning if the caller must not read the logs; else, and after the first call, an empty text.

    The first call sends two small requests, each of them once, within the limits of the host. An error other
    than a refusal is no answer.
    """
    if clients in _asked:
        return ""
    _asked.add(clients)
    logs: Any = clients.client("logs", is_sent_once=True)
    now_ms = int(time.time() * 1000)
    filters, lists = limits(clients.region)
    questions: dict[str, tuple[RateLimit, Callable[[], Any]]] = {
        "logs:DescribeLogStreams": (
            lists,
            lambda: logs.describe_log_streams(logGroupName=GROUP, limit=1),
        ),
        "logs:FilterLogEvents": (
            filters,
            lambda: logs.filter_log_events(
                logGroupName=GROUP, logStreamNamePrefix="s-", startTime=now_ms, limit=1
            ),
        ),
    }
    refused = []
    for action, (limit, ask) in questions.items():
        limit.wait()
        try:
            ask()
        except Exception as error:  # noqa: BLE001, RUF100 - the submit does not depend on the answer
            if api_error(error).kind is Trouble.DENIED:
                refused.append(action)
    if not refused:
        return ""
    names = {policies.REGION: clients.region, policies.ACCOUNT: clients.account}
    statement = json.dumps(policies.filled(policies.CALLER["ReadLogs"], names))
    return (
        f"Airflow must not read the logs of the jobs ({' and '.join(refused)}). So no line of the step is "
        "shown, and a result that only pickle can hold cannot be loaded, because the receipt of a success is "
        f"a line of the log. What to do: give the caller {statement}"
    )
