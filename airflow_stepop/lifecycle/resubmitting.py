"""Whether, and how, a step is submitted again at once, because its machine was lost or missing.

Pure functions, except for the jitter and the nonce of the new record. Called by the lifecycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.failure import Category, Failure
from airflow_stepop.lifecycle.new_records import new_record
from airflow_stepop.waiting.backoff import with_jitter

if TYPE_CHECKING:
    from airflow_stepop.lifecycle.interfaces import Request
    from airflow_stepop.record import StepRecord

LONG_RUN_S = 3600.0  # after a job that ran so long, resubmissions are counted anew: Spot may last for days
LONGEST_PAUSE_S = 1800.0
NEXT_ALTERNATIVE_S = 600.0  # start_timeout of a task that names several kinds of machine and sets none


@dataclass(frozen=True)
class NextGeneration:
    """The generation that replaces one whose machine was lost or missing.

    :param message: what happens next, for the task's log
    :param pause_s: seconds to wait before its submit
    """

    record: StepRecord
    message: str
    pause_s: float = 0.0


def next_generation(record: StepRecord, failure: Failure, request: Request) -> NextGeneration | None:
    """Return the generation that follows at once after ``failure``; ``None``: the failure is the task's own.

    The next of the task's kinds of machine counts as no resubmission. After the last kind, the first one is
    asked for again, as a resubmission. The count of resubmissions starts anew after a job that ran for an
    hour.
    """
    category, kinds = failure.category, request.alternatives
    count, alternative, pause_s = record.resubmissions, record.alternative, 0.0
    if category in (Category.NO_CAPACITY, Category.START_TIMEOUT) and alternative + 1 < len(kinds):
        alternative += 1
        message = f"{kinds[alternative - 1]} was not to be had, the next job asks for {kinds[alternative]}"
    else:
        count, most = resubmissions_before(record), request.max_resubmissions
        if not category.is_resubmitted or count >= most:
            return None
        if category is Category.NO_CAPACITY:
            alternative, pause_s = 0, capacity_pause(request.capacity_pause_s, count)
        count += 1
        message = f"resubmitting ({count} of {most})" + (f" in {pause_s:.0f} s" if pause_s else "")
    again = new_record(
        request,
        record.generation + 1,
        resubmissions=count,
        memory_bytes=record.memory_bytes,
        alternative=alternative,
    )
    return NextGeneration(again, message, pause_s)


def resubmissions_before(record: StepRecord) -> int:
    """Return how many resubmissions count before the next one, at the end of the record's job."""
    end = record.end
    if end is None or end.started_at is None or end.finished_at is None:
        return record.resubmissions
    return 0 if end.finished_at - end.started_at >= LONG_RUN_S else record.resubmissions


def capacity_pause(first_s: float, before: int) -> float:
    """Return the pause before a resubmission after a lack of capacity, seconds.

    :param first_s: ``[stepop] capacity_pause``
    :param before: number of resubmissions before this one
    """
    return with_jitter(min(first_s * 2**before, max(first_s, LONGEST_PAUSE_S)))
