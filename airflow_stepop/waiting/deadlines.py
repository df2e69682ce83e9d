"""When to stop waiting for a job: pure rules.

The lifecycle builds :class:`Deadlines`. The worker and the trigger apply the same deadlines to each status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from airflow_stepop.job import JobState, JobStatus

OVERDUE_FACTOR, OVERDUE_S = 1.05, 600.0  # a job is overdue after timeout * factor + seconds


class StopReason(StrEnum):
    """Why waiting for a job ended."""

    FINISHED = "finished"  # the job is terminal or gone
    # Airflow does not enforce the task's execution_timeout while the task is deferred
    EXECUTION_TIMEOUT = "execution_timeout"
    START_TIMEOUT = "start_timeout"  # the step did not begin within start_timeout
    OVERDUE = "overdue"  # the job still runs long after its service should have ended it
    UNREACHABLE = "unreachable"  # the triggerer cannot see the job: wrong host or wrong configuration
    PAUSED = "paused"  # the pause between two submits is over; no job exists yet

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> StopReason:
        """Return the reason in an event of a trigger.

        For a reason that only a newer triggerer knows, the answer is ``FINISHED``: the worker then asks for
        the state of the job itself, and goes on waiting if the job still runs.
        """
        reason = event.get("reason")
        return cls(reason) if reason in list(cls) else cls.FINISHED

    @property
    def needs_fresh_status(self) -> bool:
        """Whether a newer status could show that the job is not late."""
        return self in (StopReason.START_TIMEOUT, StopReason.OVERDUE)

    @property
    def is_deadline(self) -> bool:
        """Whether a deadline passed, so that the job has to be cancelled."""
        return self in (StopReason.EXECUTION_TIMEOUT, StopReason.START_TIMEOUT, StopReason.OVERDUE)


@dataclass(frozen=True)
class Deadlines:
    """The deadlines of one job. ``None`` means that there is no such deadline.

    :param execution: when the task's ``execution_timeout`` passes, seconds since the epoch
    :param start: by when the step must have begun, seconds since the epoch
    :param run_s: longest run time with a margin, seconds. The service should have ended the job before that
    :param start_s: ``start_timeout``, seconds. It begins anew when the service has stopped the job and will
        start the job again (``JobStatus.waits_since``)
    :param submitted: when the job was submitted, seconds since the epoch
    """

    execution: float | None = None
    start: float | None = None
    run_s: float | None = None
    start_s: float | None = None
    submitted: float | None = None

    @classmethod
    def of_job(cls, asked: Mapping[str, Any], submitted: float, execution: float | None) -> Deadlines:
        """Return the deadlines of a job.

        :param asked: the time limits that the job was submitted with; the record's field ``asked``
        :param submitted: seconds since the epoch
        :param execution: as above
        """
        start_s = asked.get("start_timeout_s")
        return cls(
            execution=execution,
            start=submitted + start_s if start_s is not None else None,
            run_s=asked["timeout_s"] * OVERDUE_FACTOR + OVERDUE_S,
            start_s=start_s,
            submitted=submitted,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Deadlines:
        known = {one.name for one in fields(cls)}  # a newer worker may send more fields
        return cls(**{name: value for name, value in data.items() if name in known})

    def reason(self, status: JobStatus | None, now: float) -> StopReason | None:
        """Return why to stop waiting, or ``None`` to go on waiting.

        A terminal job is ``FINISHED``, even if a deadline has passed meanwhile.

        :param status: the last known status; ``None`` while no status could be read
        :param now: seconds since the epoch
        """
        if status is not None and status.state.is_terminal:
            return StopReason.FINISHED
        if self.execution is not None and now > self.execution:
            return StopReason.EXECUTION_TIMEOUT
        if status is None:
            return None
        start = self._start(status)
        if status.state is JobState.PENDING and start is not None and now > start:
            return StopReason.START_TIMEOUT
        overdue = self._overdue(status)
        if overdue is not None and now > overdue:
            return StopReason.OVERDUE
        return None

    def next_after(self, status: JobStatus | None, now: float) -> float | None:
        """Return the seconds until the next deadline, or ``None`` when no deadline lies ahead."""
        times = (self.execution, self._start(status), self._overdue(status))
        return min((at - now for at in times if at is not None and at > now), default=None)

    def _start(self, status: JobStatus | None) -> float | None:
        if self.start is None or self.start_s is None or status is None or status.waits_since is None:
            return self.start
        return max(self.start, status.waits_since + self.start_s)

    def _overdue(self, status: JobStatus | None) -> float | None:
        if self.run_s is None or status is None or status.started_at is None:
            return None
        # the clock of the job's machine may be slow: a step cannot have begun before its submit
        return max(status.started_at, self.submitted or 0.0) + self.run_s


class Clock:
    """Seconds since the epoch, for deadlines.

    A change of the system clock after the start does not move this clock, so it cannot make a job late.
    """

    def __init__(self) -> None:
        self._offset = time.time() - _elapsed()

    def now(self) -> float:
        return self._offset + _elapsed()


def _elapsed() -> float:
    """Return seconds on a clock that cannot be set.

    The clock also counts while the host sleeps, where the system has ``CLOCK_BOOTTIME``.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
