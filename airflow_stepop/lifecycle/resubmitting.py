"""How often, and after which pause, a step is submitted again after its machine was lost or missing.

Pure functions, except for the jitter. Called by the lifecycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.waiting.backoff import with_jitter

if TYPE_CHECKING:
    from airflow_stepop.record import StepRecord

LONG_RUN_S = 3600.0  # after a job that ran so long, resubmissions are counted anew: Spot may last for days
LONGEST_PAUSE_S = 1800.0


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
