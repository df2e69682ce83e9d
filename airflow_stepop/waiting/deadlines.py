"""When waiting for a job is over: pure rules for the worker and the triggerer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from airflow_stepop.job import JobState, JobStatus

OVERDUE_FACTOR, OVERDUE_S = 1.05, 600.0  # how long after its timeout a job may still be seen running


class StopReason(StrEnum):
    """Why waiting for a job ended."""

    FINISHED = "finished"  # the job is terminal or gone
    EXECUTION_TIMEOUT = (
        "execution_timeout"  # Airflow's limit for the task; Airflow does not watch it while deferred
    )
    START_TIMEOUT = "start_timeout"  # it did not begin in time
    OVERDUE = "overdue"  # it should have been stopped by its own service long ago
    UNREACHABLE = "unreachable"  # it cannot be seen from this host
    PAUSED = "paused"  # there is no job yet: it is time to submit again

    @property
    def needs_fresh_status(self) -> bool:
        """Whether another status could mean that the job is not late."""
        return self in (StopReason.START_TIMEOUT, StopReason.OVERDUE)

    @property
    def is_deadline(self) -> bool:
        return self in (StopReason.EXECUTION_TIMEOUT, StopReason.START_TIMEOUT, StopReason.OVERDUE)


@dataclass(frozen=True)
class Deadlines:
    """After which nobody waits any longer; ``None``: no such limit.

    :param execution: Airflow's limit for the task, seconds since the epoch
    :param start: by when the step must have begun, seconds since the epoch
    :param start_s: how long it may wait for that, seconds: counts anew when its service makes it wait again
    :param submitted: when the job was, seconds since the epoch
    :param run_s: longest run time with a margin: its own service should have ended the job before, seconds
    """

    execution: float | None = None
    start: float | None = None
    run_s: float | None = None
    start_s: float | None = None
    submitted: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Deadlines:
        known = {one.name for one in fields(cls)}  # a newer version may have sent more
        return cls(**{name: value for name, value in data.items() if name in known})

    def reason(self, status: JobStatus | None, now: float) -> StopReason | None:
        """Return why to stop waiting; ``None`` to go on. A job that ended in time is finished, not late.

        :param status: the last status, ``None`` while none could be had
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
        """Return the seconds until the next known time; ``None`` when there is none."""
        times = (self.execution, self._start(status), self._overdue(status))
        return min((at - now for at in times if at is not None and at > now), default=None)

    def _start(self, status: JobStatus | None) -> float | None:
        if self.start is None or self.start_s is None or status is None or status.waits_since is None:
            return self.start
        return max(self.start, status.waits_since + self.start_s)

    def _overdue(self, status: JobStatus | None) -> float | None:
        if self.run_s is None or status is None or status.started_at is None:
            return None
        # a step cannot have begun before it was submitted, whatever the clock of its machine says
        return max(status.started_at, self.submitted or 0.0) + self.run_s


class Clock:
    """Seconds since the epoch for whoever waits: nothing is late because somebody set the clock meanwhile."""

    def __init__(self) -> None:
        self._offset = time.time() - _elapsed()

    def now(self) -> float:
        return self._offset + _elapsed()


def _elapsed() -> float:
    """Return seconds on a clock that nobody can set; it goes on while the host sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
