"""The retry that exists for recovery only.

With Airflow's default of no retries, a killed worker would end the task while its job goes on. So a remote
step has one retry unless the user says otherwise, and this policy keeps it for what it is meant for: an error
of the step itself fails at once, as it would have without the retry.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryPolicy
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_stepop.exceptions import IntegrityError, PayloadError, StepConfigError, StepFailedError

if TYPE_CHECKING:
    from airflow.sdk import Context

RECOVERY_RETRIES = 1
RECOVERY_DELAY = timedelta(seconds=5)
FINAL_ERRORS = (StepConfigError, PayloadError, IntegrityError, AirflowTaskTimeout)
RECOVERED = frozenset({"lost", "infra", "preempted", "no_capacity"})  # values of job.Category


class RecoveryRetryPolicy(RetryPolicy):
    """Fails the step's own error at once, and retries what was not its doing."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        failed = exception if isinstance(exception, StepFailedError) else exception.__cause__
        if isinstance(failed, StepFailedError):
            is_final = failed.failure.category not in RECOVERED
        else:
            is_final = isinstance(exception, FINAL_ERRORS)
        if is_final:
            return RetryDecision.fail("the step's own error; its only retry is for lost workers and machines")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RecoveryRetryPolicy:
        return cls()


def recovery_arguments(explicit: Mapping[str, Any], default_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that give a task its recovery retry; none when the user decided about retries.

    :param explicit: what the user gave to the task
    :param default_args: the defaults of the DAG and the task group
    """
    names = ("retries", "retry_policy")
    is_decided = any(explicit.get(name) is not None or default_args.get(name) is not None for name in names)
    if is_decided or conf.getint("core", "default_task_retries", fallback=0) > 0:
        return {}
    arguments: dict[str, Any] = {"retries": RECOVERY_RETRIES, "retry_policy": RecoveryRetryPolicy()}
    if explicit.get("retry_delay") is None and default_args.get("retry_delay") is None:
        arguments["retry_delay"] = RECOVERY_DELAY
    return arguments


def mapped_recovery_arguments(explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a mapped task, whose defaults Airflow merges only when it makes the instances."""
    from airflow.sdk.bases.operator import get_merged_defaults
    from airflow.sdk.definitions._internal.contextmanager import DagContext, TaskGroupContext

    dag = explicit.get("dag") or DagContext.get_current()
    group = explicit.get("task_group") or (TaskGroupContext.get_current(dag) if dag else None)
    defaults, _ = get_merged_defaults(dag, group, None, explicit.get("default_args"))
    return recovery_arguments(explicit, defaults)
