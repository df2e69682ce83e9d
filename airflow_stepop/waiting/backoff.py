"""How long to pause between two looks at a job: for the worker and the triggerer."""

from __future__ import annotations

import random
import time


def with_jitter(longest_s: float) -> float:
    """Return between half of a pause and all of it: those who wait for the same do not come back at once."""
    return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - no secret


class Backoff:
    """Pauses between two looks: short at first, then the poll interval; longer, with jitter, after errors.

    :param poll_interval_s: pause between two looks at a job that has been running for a while
    """

    FIRST_S = 0.05
    GROWTH = 1.3
    LONGEST_S = 60.0
    QUICK_EVERY_S = (
        30.0  # when jobs come all the time, each would have all of them looked at in quick succession
    )

    def __init__(self, poll_interval_s: float) -> None:
        self.poll_interval_s = poll_interval_s
        self._pause_s = min(self.FIRST_S, poll_interval_s)
        self._quickened_at = time.monotonic()
        self.errors = 0

    @property
    def may_quicken(self) -> bool:
        return time.monotonic() - self._quickened_at >= self.QUICK_EVERY_S

    def quicken(self) -> None:
        """Look often again: something new is being waited for."""
        self._quickened_at = time.monotonic()
        self._pause_s = min(self.FIRST_S, self.poll_interval_s)

    def after_success(self) -> float:
        self.errors = 0
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * self.GROWTH, self.poll_interval_s)
        return pause_s

    def after_error(self) -> float:
        self.errors += 1
        return with_jitter(min(self.poll_interval_s * 2**self.errors, self.LONGEST_S))
