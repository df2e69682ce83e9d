"""Whether the caller may read the logs of the jobs. Asked before a submit, and by ``airflow stepop check``.

Without the logs, no line of a step is shown, and the receipt of a success is missing: then only results
without pickle can be loaded. A user should know that before the step has run for hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.sagemaker import policies
from airflow_stepop.hooks.sagemaker.job_logs import GROUP, limits
from airflow_stepop.hooks.sagemaker.service import NO_JOB, api_error

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.hooks.common.rate_limit import RateLimit

_asked: WeakSet[AwsClients] = WeakSet()  # those that this process has asked with


def log_reads(client: Any, region: str) -> dict[str, Callable[[], object]]:
    """Return IAM action -> a function that sends a small request which needs it.

    The requests stay within the limits of the host. Without a job that has printed in the
    region, there is no log group, and an answer is ``NOT_FOUND``.

    :param client: boto3's for ``logs``
    """
    known = {"logGroupName": GROUP, "logStreamNamePrefix": NO_JOB, "limit": 1}
    filters, lists = limits(region)

    def within(limit: RateLimit, ask: Callable[..., object]) -> Callable[[], object]:
        def send() -> object:
            limit.wait()
            return ask(**known)

        return send

    return {
        "logs:DescribeLogStreams": within(lists, client.describe_log_streams),
        "logs:FilterLogEvents": within(filters, client.filter_log_events),
    }


def refused_reads(clients: AwsClients) -> str:
    """Return a warning if the caller must not read the logs; else, and after the first call, an empty text.

    The first call sends two small requests, each of them once, within the limits of the host. An error other
    than a refusal is no answer.
    """
    if clients in _asked:
        return ""
    _asked.add(clients)
    refused = []
    logs = clients.client("logs", is_sent_once=True)
    for action, ask in log_reads(logs, clients.region).items():
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
