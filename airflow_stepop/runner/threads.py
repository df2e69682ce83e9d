"""Runs transfers in parallel and logs their progress. Used by the runner and, in the worker, by buckets."""

from __future__ import annotations

import threading
import time

from .sizes import shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

TICK_S = 1.0
# seconds until the first progress line of a transfer, and between further lines
FIRST_LINE_S, NEXT_LINES_S = 5.0, 15.0


def in_order(
    call: Callable[[Any], Any], jobs: Sequence[Any], count: int, tick: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """Yield ``call(job)`` for every job, in order. Up to ``count`` calls run at the same time, in threads.

    The calling thread only waits, so Python can run its signal handlers. After an error no further call
    begins, and the error is raised without waiting for the calls that are running.

    :param tick: called about every second while the caller waits
    """
    crew = _Crew(call, jobs)
    threads = [threading.Thread(target=crew.work, daemon=True) for _ in range(min(count, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for index in range(len(jobs)):
            yield crew.result(index, tick)
    finally:
        crew.stop()
    for thread in threads:  # all calls have ended; after the join no thread holds a result
        thread.join()


class _Crew:
    """The jobs that have not begun, and the results of the others."""

    def __init__(self, call: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
        self._call = call
        self._jobs = jobs
        self._left = iter(range(len(jobs)))
        self._found: dict[int, tuple[Any, BaseException | None]] = {}
        self._news = threading.Condition()

    def work(self) -> None:
        while True:
            with self._news:
                index = next(self._left, None)
            if index is None:
                return
            found: tuple[Any, BaseException | None]
            try:
                found = self._call(self._jobs[index]), None
            except BaseException as error:  # raised again in the thread that waits for the result
                found = None, error
            with self._news:
                self._found[index] = found
                self._news.notify()

    def result(self, index: int, tick: Callable[[], None]) -> Any:
        with self._news:
            while index not in self._found:
                self._news.wait(TICK_S)
                tick()
            value, error = self._found.pop(index)
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        with self._news:
            self._left = iter(())


class Progress:
    """Logs the progress of a long transfer. A short transfer is not logged.

    :param what: begins each line, such as ``reading part x``
    :param total: bytes in all
    """

    def __init__(self, what: str, total: int, report: Callable[[str], Any]) -> None:
        self.what = what
        self.total = total
        self._report = report
        self._done = 0
        self._begun = time.monotonic()
        self._next = self._begun + FIRST_LINE_S
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count

    def tick(self) -> None:
        """Log a line if one is due."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + NEXT_LINES_S
            done = f"{shown_size(self._done)} of {shown_size(self.total)}"
            self._report(f"{self.what}: {done} after {now - self._begun:.0f} s")

    def end(self) -> None:
        """Log the last line if a line was logged before."""
        taken_s = time.monotonic() - self._begun
        if self._next > self._begun + FIRST_LINE_S:
            self._report(f"{self.what}: done, {shown_size(self.total)} in {taken_s:.0f} s")
