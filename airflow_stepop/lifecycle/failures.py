"""Failures for steps that did not report one themselves: deadline, quota, lost or refused outcome.

Pure functions. The collector and the submit retries call them. The texts are for the task log.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.core.units import format_size, shown_size
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.lifecycle.truncation import fit_to_state
from airflow_stepop.results import StepResult
from airflow_stepop.runner.about import describe
from airflow_stepop.waiting.deadlines import StopReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_stepop.exceptions import (
        IntegrityError,
        OutcomeLostError,
        OutcomeNotReadyError,
        QuotaError,
    )

KILLER = "out-of-memory killer"  # in the summary of a step that was killed for a reason that nobody knows
_AMOUNT = re.compile(r"[0-9] [KMGTP]?i?B\b")

_DEADLINES = {
    StopReason.START_TIMEOUT: (
        Category.START_TIMEOUT,
        "the step did not start within start_timeout and was cancelled",
        "see what the step waited for; raise start_timeout, or ask for less so that there is room sooner",
    ),
    StopReason.EXECUTION_TIMEOUT: (
        Category.TIMEOUT,
        "the task's execution_timeout passed and the step was cancelled",
        "raise execution_timeout; timeout= limits the run time of the step alone",
    ),
    StopReason.OVERDUE: (
        Category.TIMEOUT,
        "the step ran past its timeout, which its service should have enforced; it was cancelled",
        "look at the job in the service's console",
    ),
}


def given_up(reason: StopReason, native_state: str = "") -> Failure:
    """Return the failure of a step that was cancelled at a deadline.

    :param native_state: the service's own state of the job at the deadline
    """
    category, summary, hint = _DEADLINES[reason]
    return Failure(category, summary, native_state if reason is StopReason.START_TIMEOUT else "", hint=hint)


def not_stopped(limit_s: float) -> Failure:
    """Return the failure of a try that may not submit, because an earlier job of the task does not end."""
    return Failure(
        Category.LOST,
        f"an earlier job of this task could not be stopped within {limit_s:.0f} s; "
        "with a second job beside it the step would run twice",
        hint="stop the earlier job at the service, then clear the task",
    )


def refused(status: JobStatus, error: IntegrityError) -> Failure:
    """Return the failure of a step whose outcome was changed after the step wrote it."""
    return Failure(
        Category.INFRA,
        f"the outcome of the step was refused: {error}",
        hint="the outcome was changed after the step wrote it; clear the task to run the step again",
        has_succeeded=status.state is JobState.SUCCEEDED,
    )


def without_room(error: QuotaError) -> Failure:
    """Return the failure of a step whose quota had no room within the limit."""
    hint = "raise the quota or start_timeout, or run fewer steps at once (max_active_tis_per_dag)"
    return Failure(Category.QUOTA, str(error), hint=hint)


def without_outcome(status: JobStatus, error: OutcomeLostError) -> Failure:
    """Return the failure of a job that ended without an outcome; the service's own reason comes first."""
    if status.state is JobState.SUCCEEDED:
        return Failure(
            Category.LOST,
            f"the step succeeded{_time_of(status)}, but its outcome cannot be read: {error}",
            native_reason=status.native,
            hint="the step is not run again by itself; clear the task to run it again",
            has_succeeded=True,
        )
    if status.failure is not None:
        return status.failure
    if status.state is JobState.CANCELLED:
        return Failure(Category.CANCELLED, "the step was cancelled", hint="clear the task to run it again")
    if status.state is JobState.GONE:
        return Failure(
            Category.LOST,
            "the job is gone and its outcome with it",
            hint="somebody deleted it; clear the task",
        )
    text = f"the job failed{_time_of(status)} and left no outcome: {error}"
    return Failure(Category.LOST, text, native_reason=status.native)


def not_arrived(status: JobStatus, error: OutcomeNotReadyError, limit_s: float) -> Failure:
    """Return the failure of a job whose outcome did not come in time; the service's own reason comes first.

    :param error: says what did not come, and where it should be
    :param limit_s: for how many seconds after the job's end the outcome was waited for
    """
    if status.failure is not None:
        return status.failure
    if error.failure is not None:
        known = Failure.from_json(error.failure)
        advice = f"{known.hint}; " if known.hint else ""
        late = f"its traceback did not come within {limit_s / 60:.0f} minutes: {error}"
        return replace(known, hint=f"{advice}{late}; the job is kept")
    has_succeeded = status.state is JobState.SUCCEEDED
    ended = "succeeded" if has_succeeded else "ended"
    advice = "the step is not run again by itself; " if has_succeeded else ""
    return Failure(
        Category.INFRA,
        f"the step {ended}{_time_of(status)}, and its outcome did not come within {limit_s / 60:.0f} "
        f"minutes: {error}",
        native_reason=status.native,
        hint=f"{advice}the job is kept: look there for what it left, then clear the task to run it again",
        has_succeeded=has_succeeded,
    )


def _time_of(status: JobStatus) -> str:
    try:
        at = datetime.fromtimestamp(status.finished_at or 0, UTC)
    except (ValueError, OverflowError, OSError):  # the clock of a service, or a damaged record
        return ""
    return f" at {at:%Y-%m-%d %H:%M:%S} UTC" if status.finished_at else ""


def seen_end(status: JobStatus) -> JobStatus:
    """Return the status of a job that has ended, as a record keeps it; without a time, it has ended now."""
    failure = fit_to_state(status.failure) if status.failure is not None else None
    return replace(status, failure=failure, finished_at=status.finished_at or time.time())


def as_seen_before(status: JobStatus, end: JobStatus | None) -> JobStatus:
    """Return the status of a job whose end may have been seen before.

    What a service has once said of the end of a job stays true when the job is gone, and also if the service
    says something else later. Of two different ends a success counts: a step that succeeded must not run
    again.

    :param status: the job's status now
    :param end: how the job ended, as it was seen before; ``None``: nobody has seen an end
    """
    if end is None or status.state is JobState.SUCCEEDED:
        return status
    if status.state is end.state:
        return replace(status, failure=status.failure or end.failure)
    return end


def as_the_service_saw_it(failure: Failure, status: JobStatus) -> Failure:
    """Return the failure that the service reports, with the step's exception; else the step's own failure.

    The service knows why a step was killed (memory, preemption). The step itself saw only a signal.
    """
    return replace(status.failure, exception=failure.exception) if status.failure is not None else failure


_AS_LIST = {
    "numpy.ndarray": "return list(array) for its rows, or array.tolist() for plain numbers",
    "pandas.DataFrame": 'return frame.to_dict("records") for its rows',
    "pandas.Series": "return series.tolist()",
    "pyarrow.Table": "return table.to_pylist() for its rows",
    "dict": "give the dict keys that are text",
    "set": "return sorted(...) of it",
    "frozenset": "return sorted(...) of it",
}


def unmappable(value: object, mapped: Sequence[str]) -> Failure | None:
    """Return the failure of a step over whose result Airflow cannot map tasks; ``None``: it can.

    Airflow itself would name the class of the reference that stands for the result.

    :param value: the value that the task would return to Airflow
    :param mapped: ids of the tasks that are mapped over the result
    """
    if isinstance(value, (list, dict)) or not mapped:
        return None
    about = value.about if isinstance(value, StepResult) else "None" if value is None else describe(value)
    kind = about.partition(" ")[0].rstrip(",")
    return Failure(
        Category.USER_ERROR,
        f"the step returned {about}. Airflow maps tasks over a list or a dict only, and {', '.join(mapped)} "
        f"{'are' if len(mapped) > 1 else 'is'} mapped over this result",
        hint=f"{_AS_LIST.get(kind, 'return a list or a dict')}: each item becomes one task instance",
    )


def with_memory(failure: Failure, asked_bytes: int, used_bytes: float | None) -> Failure:
    """Return a failure about memory with the numbers in its summary, and with ``on_oom`` in its hint.

    :param asked_bytes: the memory that the step asked for; 0: the backend's default
    :param used_bytes: its peak, where that is known
    """
    is_oom = failure.category is Category.OOM
    if not is_oom and KILLER not in failure.summary:
        return failure
    amounts = [f"it asked for {shown_size(asked_bytes)} of memory"] if asked_bytes else []
    amounts += [f"it used {shown_size(used_bytes)} at its peak"] if used_bytes else []
    if amounts and not _AMOUNT.search(failure.summary):
        failure = replace(failure, summary=f"{failure.summary}; {', and '.join(amounts)}")
    if not is_oom or "memory" not in failure.hint:  # an init container has memory of its own
        return failure
    cap = format_size(2 ** math.ceil(math.log2(asked_bytes * 2))) if asked_bytes else "16GiB"
    more = f'on_oom=MoreMemory(cap="{cap}") lets the next try ask for more'
    return replace(failure, hint=f"{failure.hint}; {more if asked_bytes else f'beside a memory, {more}'}")
