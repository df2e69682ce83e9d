"""Jobs that no live task instance owns, and what to do with each.

A job is owned while its task instance is there, unfinished, and its record has the job's nonce. The record is
saved before the job exists, and no other task instance, try or generation ever gets that nonce: so a job that
nobody owns stays that way, and whatever happens between looking and acting, acting is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError, StepopError
from airflow_stepop.inventory.database import TaskKey, is_finished, record_of, task_states
from airflow_stepop.job import JobState

if TYPE_CHECKING:
    from airflow_stepop.inventory.targets import Complain, Job
    from airflow_stepop.record import StepRecord

DAY_S = 86400.0
GONE = "gone"  # no state of Airflow's


class Action(StrEnum):
    """What is to be done with a job that nobody owns."""

    CANCEL = "cancel"  # it runs for nobody
    DELETE = "delete"  # it is over, and nothing says that it be kept
    KEEP = "keep"  # it is over, and kept for a person to look at, until [stepop] retention


@dataclass(frozen=True)
class Orphan:
    """A job that nobody owns."""

    job: Job
    reason: str
    action: Action


def find_orphans(
    jobs: Iterable[Job], *, now: float, min_age_s: float, retention_s: float | None, complain: Complain
) -> Iterator[Orphan]:
    """Yield the jobs that nobody owns. Call it after the jobs were listed: see the module's promise.

    :param min_age_s: jobs younger than this are left alone, whatever Airflow says
    :param retention_s: how long a finished job is kept; ``None`` for ever
    """
    old = [job for job in jobs if now - job.found.created_at >= min_age_s]
    keys = [TaskKey.of(job.found.labels) for job in old]
    states = task_states(key for key in keys if key is not None)
    for job, key in zip(old, keys, strict=True):
        try:
            record = record_of(key) if key is not None and key in states else None
        except StepopError as error:  # it may well be the owner
            complain(f"{job.handle} is left alone: {error}")
            continue
        state = states[key] if key is not None and key in states else GONE
        reason = _disowned(job, record, state)
        if reason:
            yield Orphan(job, reason, _action(job, record, now, retention_s))


def _disowned(job: Job, record: StepRecord | None, state: str | None) -> str:
    """Return why nobody owns the job; empty when somebody does."""
    if state == GONE:
        return "its task instance is gone"
    if is_finished(state):
        return f"its task instance is over ({state})"
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
    """Return whether the task wants its finished job to stay; see the operator's ``keep``."""
    if record.keep == "failed":
        return "result" not in (record.collected or {})
    return record.keep == "always"


def retention_s(days: float | None = None) -> float | None:
    """Return how long things are kept that nothing refers to; ``None``: for ever.

    :param days: instead of ``[stepop] retention``
    :raises StepConfigError: it is not a number of days
    """
    from airflow.sdk.configuration import conf

    text = str(days) if days is not None else conf.get("stepop", "retention", fallback="30").strip()
    try:
        found = float(text or 0)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise StepConfigError(
            f"[stepop] retention is a number of days, or 0 to keep everything, not {text!r}"
        )
    return found * DAY_S or None
