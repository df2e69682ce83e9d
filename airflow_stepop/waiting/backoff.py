"""Poll intervals and back-off after errors.

The worker (``lifecycle/``) and the triggerer's watcher use :class:`Backoff`; the lifecycle's pauses between
submits use :func:`with_jitter`.
"""

from __future__ import annotations

import random
import time


def with_jitter(longest_s: float) -> float:
    """Return a random pause from half of ``longest_s`` to all of it, so that clients do not retry in step."""
    return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - no secret


class Backoff:
    """Pauses between two polls.

    The first pause is 0.05 s. Each poll makes the next pause 1.3 times as long, up to the poll interval.
    The pause after an error doubles with each error in a row, up to 60 s, and has jitter.

    :param poll_interval_s: longest pause between two successful polls, seconds
    """

    FIRST_S = 0.05
    GROWTH = 1.3
    LONGEST_S = 60.0
    # A new job makes the polls frequent again, and each poll reads all jobs. So a steady stream of new jobs
    # may do so only this often.
    QUICK_EVERY_S = 30.0

    def __init__(self, poll_interval_s: float) -> None:
        self.poll_interval_s = poll_interval_s
        self._pause_s = min(self.FIRST_S, poll_interval_s)
        self._quickened_at = time.monotonic()
        self.errors = 0

    @property
    def may_quicken(self) -> bool:
        """Whether the last call of :meth:`quicken` is at least ``QUICK_EVERY_S`` ago."""
        return time.monotonic() - self._quickened_at >= self.QUICK_EVERY_S

    def quicken(self) -> None:
        """Start again with the shortest pause, because a new job is being watched."""
        self._quickened_at = time.monotonic()
        self._pause_s = min(self.FIRST_S, self.poll_interval_s)

    def after_success(self) -> float:
        """Return the pause after a successful poll, seconds; the error count starts again at 0."""
        self.errors = 0
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * self.GROWTH, self.poll_interval_s)
        return pause_s

    def after_error(self) -> float:
        """Return the pause after a failed poll, seconds."""
        self.errors += 1
        return with_jitter(min(self.poll_interval_s * 2**self.errors, self.LONGEST_S))
