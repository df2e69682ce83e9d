"""The timer of the parent process, shared by the meter and by the step's time limit. Used by :mod:`.main`."""

from __future__ import annotations

import os
import signal
import time

from .failures import StepError
from .files import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[], float | None]

SOON_S = 0.001  # shortest delay: 0 would turn the timer off


class Alarm:
    """Calls registered functions when they are due: in the main thread, by SIGALRM, also while it waits.

    A process has one such timer (``ITIMER_REAL``), so all callers share one :class:`Alarm`.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, Call]] = []
        signal.signal(signal.SIGALRM, self._ring)

    def call(self, after_s: float, call: Call) -> None:
        """Run ``call`` in ``after_s`` seconds. If it returns a number, run it again in so many seconds."""
        self._due.append((time.monotonic() + after_s, call))
        self._set()

    def stop(self) -> None:
        self._due = []
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def _ring(self, signum: int, frame: object) -> None:
        now = time.monotonic()
        due = [call for at, call in self._due if at <= now]
        self._due = [(at, call) for at, call in self._due if at > now]
        for call in due:
            after_s = call()
            if after_s is not None:
                self._due.append((time.monotonic() + after_s, call))
        self._set()

    def _set(self) -> None:
        if self._due:
            left_s = min(at for at, _ in self._due) - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left_s, SOON_S))


class TimeLimit:
    """Stops the step when its time is over: first SIGTERM, then SIGKILL after the grace period.

    :param seconds: longest run time; 0 for no limit
    :param grace_s: seconds between the two signals; 0 for SIGKILL at once
    """

    def __init__(self, seconds: float, grace_s: float) -> None:
        self.seconds, self.grace_s = seconds, grace_s
        self.is_over = False
        self._pid = 0

    def watch(self, pid: int, alarm: Alarm) -> None:
        self._pid = pid
        if self.seconds:
            alarm.call(self.seconds, self._stop)

    def error(self) -> StepError:
        return StepError(
            "timeout",
            f"The step ran longer than its timeout of {self.seconds:g} s and was stopped",
            "raise timeout, or find out what it waited for",
        )

    def _stop(self) -> float | None:
        was_asked, self.is_over = self.is_over, True
        if was_asked or not self.grace_s:
            quietly(os.killpg, self._pid, signal.SIGKILL)
            quietly(os.kill, self._pid, signal.SIGKILL)
            return None
        quietly(os.kill, self._pid, signal.SIGTERM)
        return self.grace_s
