"""Derives the status of a step from what the service says of its sandbox. Called by ``service.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_stepop.hooks.modal import states
from airflow_stepop.hooks.modal.failures import failure_of, lost, vanished
from airflow_stepop.hooks.modal.states import STATES, has_gpu_form
from airflow_stepop.job import JobState, JobStatus

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.private import Seen

WAITS = "the sandbox waits for a machine"


def running_status(seen: Seen, has_task: bool) -> JobStatus:
    """Return the status of a sandbox that has not ended.

    :param has_task: the service has a container for it
    """
    if has_task:
        return JobStatus(JobState.RUNNING, native=states.RUNNING, started_at=seen.started_at)
    return JobStatus(JobState.PENDING, native=states.QUEUED, message=WAITS)


def is_success(seen: Seen) -> bool:
    """Return whether the exit code is that of a step that has succeeded."""
    return seen.result is not None and seen.result.status == states.SUCCESS and not seen.result.exit_code


def ended_status(seen: Seen, *, is_ours: bool, has_outcome: bool) -> JobStatus:
    """Return the status of a sandbox that has ended. Without a result, nobody knows how.

    An exit code says little: a sandbox whose command never ran may have 0. So a step has succeeded only if
    its outcome is there.

    :param is_ours: we have ended it
    :param has_outcome: ``outcome.json`` is in the job's folder
    """
    result = seen.result
    if result is None:  # its marker is all that it has left
        return JobStatus(JobState.FAILED, failure=vanished(seen.id), native=states.UNKNOWN)
    state = STATES.of(result.status)
    failure = failure_of(result, is_ours=is_ours, has_gpu=has_gpu_form(seen.id), name=seen.name)
    if not state.is_terminal:  # a status of a later version: it has ended, and the outcome says how
        state = JobState.SUCCEEDED if result.exit_code == 0 else JobState.FAILED
    if state is JobState.SUCCEEDED and (result.exit_code != 0 or not has_outcome):
        state, failure = JobState.FAILED, failure or lost(result)
    if state is JobState.CANCELLED and not is_ours:
        state = JobState.FAILED
    return JobStatus(
        state,
        failure=failure,
        native=result.status,
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        usage=usage_of(seen),
    )


def usage_of(seen: Seen) -> dict[str, Any]:
    """Return what the service has measured of a sandbox: ``wall_s``."""
    if seen.started_at is None or seen.finished_at is None:
        return {}
    return {"wall_s": round(max(seen.finished_at - seen.started_at, 0.0), 3)}
