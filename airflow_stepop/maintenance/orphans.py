"""Find orphans (jobs that no live task instance owns), and decide what happens to each of them.

A task instance owns a job while the instance exists, is unfinished, and its record has the job's nonce.

Why an orphan can be deleted without a lock: the record is saved before the job exists, and no other task
instance, try or generation ever gets this nonce. So a job without an owner never gets an owner again, and the
decision stays right however much time passes before the caller acts.

``cli/cleaning.py`` (``sweep``) and ``maintenance/garbage.py`` call ``find_orphans``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError, StepopError, UntrustedRecordError
from airflow_stepop.inventory.database import TaskKey, is_finished, record_of, task_states
from airflow_stepop.job import JobState

if TYPE_CHECKING:
    from airflow_stepop.inventory.targets import Complain, Job
    from airflow_stepop.record import StepRecord

DAY_S = 86400.0
GONE = "gone"  # stands for a task instance that does not exist; no state of Airflow has this name


class Action(StrEnum):
    """The action for a job that no task instance owns."""

    CANCEL = "cancel"  # the job has not ended
    DELETE = "delete"  # the job has ended, and its `keep` does not ask to keep it or the retention has passed
    KEEP = "keep"  # the job has ended; all but its secrets stays until [stepop] retention has passed


@dataclass(frozen=True)
class Orphan:
    """A job that no live task instance owns.

    :param is_collected: its outcome was collected, and its secret input was deleted then
    """

    job: Job
    reason: str
    action: Action
    is_collected: bool = False


def find_orphans(
    jobs: Iterable[Job], *, now: float, min_age_s: float, retention_s: float | None, complain: Complain
) -> Iterator[Orphan]:
    """Yield the orphans among ``jobs``.

    ``jobs`` must have been listed before this call: the record of a listed job exists, see the module's
    docstring.

    :param now: the current time, in seconds since the epoch
    :param min_age_s: jobs younger than this many seconds are skipped
    :param retention_s: how many seconds a finished job is kept; ``None`` keeps it for ever
    :param complain: called with a message for each job whose record cannot be read; such a job is skipped
    """
    old = [job for job in jobs if now - job.found.created_at >= min_age_s]
    keys = [TaskKey.of(job.found.labels) for job in old]
    states = task_states(key for key in keys if key is not None)
    for job, key in zip(old, keys, strict=True):
        state = states[key] if key is not None and key in states else GONE
        try:
            record = record_of(key) if key is not None and key in states else None
        except StepopError as error:  # the unreadable record may be the owner's
            if not isinstance(error, UntrustedRecordError) or not is_finished(state):
                complain(f"{job.handle} is left alone: {error}")
                continue
            record = None  # no task waits for the job, whatever the record says
        reason = _disowned(job, record, state)
        if reason:
            is_own = record is not None and record.nonce == job.label("nonce")
            is_collected = is_own and record is not None and record.collected is not None
            yield Orphan(job, reason, _action(job, record, now, retention_s), is_collected)


def _disowned(job: Job, record: StepRecord | None, state: str | None) -> str:
    """Return why no task instance owns the job; an empty text if one does."""
    if state == GONE:
        return "its task instance is gone"
    if is_finished(state):
        return f"its task instance has finished ({state})"
    if record is None:
        return "its task instance has no record of it"
    if record.nonce != job.label("nonce"):
        return f"its task instance has another job, {record.name}"
    return ""


def _action(job: Job, record: StepRecord | None, now: float, retention_s: float | None) -> Action:
    if not job.status.state.is_terminal:
        return Action.CANCEL
    if job.status.state is JobState.GONE:
        return Action.KEEP
    if record is not None and record.nonce == job.label("nonce") and not _is_kept(record):
        return Action.DELETE
    ended_at = job.status.finished_at or job.found.created_at
    is_old = retention_s is not None and now - ended_at >= retention_s
    return Action.DELETE if is_old else Action.KEEP


def _is_kept(record: StepRecord) -> bool:
    """Return whether the task's argument ``keep`` asks to keep its finished job."""
    if record.keep == "failed":
        return "result" not in (record.collected or {})
    return record.keep == "always"


def retention_s(days: float | None = None) -> float | None:
    """Return for how many seconds unreferenced jobs and data are kept; ``None`` means for ever.

    :param days: overrides ``[stepop] retention``
    :raises StepConfigError: the value is not a number of days
    """
    from airflow.sdk.configuration import conf

    text = str(days) if days is not None else conf.get("stepop", "retention", fallback="30").strip()
    try:
        found = float(text or 0)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise StepConfigError(
            f"[stepop] retention is a number of days, or 0 to keep everything, and not {text!r}"
        )
    return found * DAY_S or None
