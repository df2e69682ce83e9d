"""Derives the status of a step from the records of its training job. Called by the hook."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_stepop.hooks.sagemaker.failures import failure_of
from airflow_stepop.hooks.sagemaker.states import STATES, WAITS_AGAIN, job_state
from airflow_stepop.job import JobState, JobStatus

Json = dict[str, Any]


def status_of(job: Mapping[str, Any]) -> JobStatus:
    """Return the status of a job.

    :param job: a summary of a list, or the whole record. A terminal job needs the whole record, which has the
        reason of a failure
    """
    status, secondary = str(job["TrainingJobStatus"]), str(job.get("SecondaryStatus") or "")
    state = job_state(status, secondary)
    native = secondary or status
    waits_since = _seconds(job.get("LastModifiedTime")) if native in WAITS_AGAIN else None
    return JobStatus(
        state,
        failure=failure_of(job) if state.is_terminal else None,
        native=native,
        message=_message(job) if state is JobState.PENDING else "",
        started_at=_seconds(job.get("TrainingStartTime")) if state is not JobState.PENDING else None,
        finished_at=_seconds(job.get("TrainingEndTime")) if state.is_terminal else None,
        waits_since=waits_since,
        usage=usage_of(job) if state.is_terminal else {},
    )


# of a summary, which has no message of the service; the first is a recorded text
_MESSAGES = {
    "Pending": "Training job waiting for capacity",
    "Interrupted": "The Spot machine was taken away, and the job waits for another one",
    "Restarting": "The service starts the job again after an error of its own",
}


def _message(job: Mapping[str, Any]) -> str:
    """Return why a job waits. The texts of a job that runs only say that it runs: they are no trouble."""
    transitions = job.get("SecondaryStatusTransitions") or []
    told = str(transitions[-1].get("StatusMessage", "")) if transitions else ""
    return told or _MESSAGES.get(str(job.get("SecondaryStatus") or ""), "")


def has_run(job: Mapping[str, Any]) -> bool:
    """Return whether the container of a job has run: only then it can have left an outcome.

    A job that has completed has run. Without a history nobody knows, and the outcome is looked for.

    :param job: the whole record
    """
    words = {one.get("Status") for one in job.get("SecondaryStatusTransitions") or []}
    return not words or "Training" in words or job.get("TrainingJobStatus") == "Completed"


def attempts(job: Mapping[str, Any]) -> int:
    """Return how often the service has started the job's container: 1, and one more per interruption.

    An interruption may show as two words, as no word of its own, or come before the container has begun.
    """
    count, is_begun = 1, False
    for one in job.get("SecondaryStatusTransitions") or []:
        word = str(one.get("Status"))
        if word == "Training":
            is_begun = True
        elif is_begun and STATES.of(word) is JobState.PENDING:
            count, is_begun = count + 1, False
    return count


def usage_of(job: Mapping[str, Any]) -> Json:
    """Return what the job used and costs: ``wall_s``, ``billable_s``, ``instance_type``, ``instance_count``.

    ``spot_saving`` is the share of the training time that is not billed.
    With InstancePreferences, the selected type is billed.
    """
    resources = job.get("ResourceConfig") or {}
    found: Json = {
        "wall_s": job.get("TrainingTimeInSeconds"),
        "billable_s": job.get("BillableTimeInSeconds"),
        "instance_type": resources.get("SelectedInstanceType") or resources.get("InstanceType"),
        "instance_count": resources.get("SelectedInstanceCount") or resources.get("InstanceCount"),
        "spot_saving": _spot_saving(job),
        "warm_pool_s": (job.get("WarmPoolStatus") or {}).get("ResourceRetainedBillableTimeInSeconds"),
        "attempts": attempts(job) if attempts(job) > 1 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _spot_saving(job: Mapping[str, Any]) -> float | None:
    """Return 1 - billable time / training time of a Spot job.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html
    """
    wall_s, billable_s = job.get("TrainingTimeInSeconds"), job.get("BillableTimeInSeconds")
    if not job.get("EnableManagedSpotTraining") or not wall_s or billable_s is None:
        return None
    return float(max(round(1 - billable_s / wall_s, 3), 0.0))


def _seconds(when: object) -> float | None:
    return when.timestamp() if isinstance(when, datetime) else None
