"""The times that a training job may take: ``StoppingCondition`` of the request, as pure functions.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_StoppingCondition.html
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.sagemaker.settings import LONGEST_JOB_S, LONGEST_RUN_S

if TYPE_CHECKING:
    from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings

SPOT_WAIT_S = 86400  # for Spot capacity, in addition to the run time, if the settings name no wait
SHORTEST_PENDING_S, LONGEST_PENDING_S = 1800, 28 * 86400  # the service's bounds for MaxPendingTimeInSeconds


def run_limit_s(settings: SageMakerSettings, timeout_s: float) -> int:
    """Return the longest run time of a job, in seconds.

    ``timeout`` of the task and ``max_runtime_in_seconds`` are two names of one limit.
    ``SageMakerSettings.timeout_or`` has chosen the timeout of a step that sets none.

    :param timeout_s: the step's timeout
    :raises StepConfigError: the two names disagree, or the limit is above the service's 28 days
    """
    found, named = math.ceil(timeout_s), settings.max_runtime_in_seconds
    if named not in (None, found):
        raise StepConfigError(f"max_runtime_in_seconds={named} contradicts timeout={found}; set one of them")
    if found > LONGEST_RUN_S:
        raise StepConfigError(
            f"timeout={found}: SageMaker runs a job for at most 28 days; "
            f"write timeout={LONGEST_RUN_S} or less"
        )
    return found


def stopping_condition(
    settings: SageMakerSettings,
    timeout_s: float,
    *,
    start_timeout_s: float | None = None,
    is_accelerated: bool = False,
) -> dict[str, int]:
    """Return ``StoppingCondition`` of the request.

    With Spot the service wants one limit for the wait for capacity and the run together. Without a setting,
    this is the run time and a day, at most 30 days.

    :param start_timeout_s: the step's ``start_timeout``. The service enforces it for machines with
        accelerators if it is at least 1,800 s
    :param is_accelerated: whether the machine has GPUs or other accelerators
    :raises StepConfigError: the limits contradict each other or those of the service
    """
    run_s = run_limit_s(settings, timeout_s)
    if settings.use_spot_instances:
        wait_s = settings.max_wait_time_in_seconds or min(run_s + SPOT_WAIT_S, LONGEST_JOB_S)
        if wait_s < run_s:
            raise StepConfigError(
                f"timeout={run_s} is longer than max_wait_time_in_seconds={wait_s}, which includes the run "
                f"time; write max_wait_time_in_seconds={run_s} or more"
            )
        return {"MaxRuntimeInSeconds": run_s, "MaxWaitTimeInSeconds": wait_s}
    if is_accelerated and start_timeout_s is not None and start_timeout_s >= SHORTEST_PENDING_S:
        pending_s = min(math.ceil(start_timeout_s), LONGEST_PENDING_S)
        return {"MaxRuntimeInSeconds": run_s, "MaxPendingTimeInSeconds": pending_s}
    return {"MaxRuntimeInSeconds": run_s}
