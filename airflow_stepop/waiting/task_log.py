"""What of a step's output gets into Airflow's task log: for every backend, in the worker and the triggerer.

Airflow keeps a task's log in a file that its pages load as a whole, and each line costs it CPU time. So a
task has a share (``[stepop] log_limit``): a step that prints more has its first lines there and its last
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.core.printable import printable
from airflow_stepop.core.units import format_size, parse_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import LogLine

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import Cursor, JobHandle

DEFAULT_LIMIT = "16MB"
LAST_LINES = 200
SOURCE = "step"  # what Airflow's log page offers as the source of the step's own lines
LINE_COST = 250  # bytes that Airflow's file has of each line beside its text


def configured_limit() -> int:
    """Return the bytes of ``[stepop] log_limit``.

    :raises StepConfigError: it is no size
    """
    from airflow.sdk.configuration import conf

    text = str(conf.get("stepop", "log_limit", fallback="") or DEFAULT_LIMIT)
    try:
        return parse_size(text, "log_limit")
    except StepConfigError as error:
        raise StepConfigError(f"[stepop] log_limit: {error}") from None


class TaskLog:
    """Takes the lines of one job. What is given is written; it is for the caller to stop when it is full.

    :param limit: bytes of Airflow's log that the step may take
    """

    def __init__(self, log: Logger, hook: StepHook, handle: JobHandle, limit: int) -> None:
        self._log = log
        self.hook = hook
        self._handle = handle
        self._limit = limit
        self._left = limit

    @property
    def is_full(self) -> bool:
        return self._left < 0

    def write(self, lines: Sequence[LogLine]) -> None:
        """Write the lines, each with the time at which the step printed it."""
        was_full = self.is_full
        for line in lines:
            text = printable(line.text)
            self._write(text, line.time)
            self._left -= len(text) + LINE_COST
        if self.is_full and not was_full:
            self._write(self._full(), lines[-1].time)

    def rest(self, cursor: Cursor) -> Iterator[Sequence[LogLine]]:
        """Yield what the ended job printed after ``cursor``, for :meth:`write`; when full, the last lines
        only. Blocks while it reads.
        """
        while not self.is_full:
            chunk = self.hook.logs({self._handle: cursor}).get(self._handle)
            if chunk is None or not chunk.lines:
                return
            cursor = chunk.cursor
            yield chunk.lines
        lines = self.hook.tail(self._handle, LAST_LINES, cursor).lines
        if lines:
            title = f"[stepop] The last {len(lines)} lines of the step:"
            yield [LogLine(lines[0].time, title), *lines]

    def _write(self, text: str, time: float) -> None:
        try:
            when = datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):  # a time that no calendar has; the line matters more
            self._log.info(text, logger=SOURCE)
        else:
            self._log.info(text, timestamp=when, logger=SOURCE)

    def _full(self) -> str:
        place = self.hook.link(self._handle)
        command = f"airflow stepop logs {self._handle.name}"
        return (
            f"[stepop] The step has printed as much as a task's log may hold ([stepop] log_limit, "
            f"{format_size(self._limit)}). What it prints from here on is not in this log but for the last "
            f"{LAST_LINES} lines, which follow at its end. While the job is kept: "
            f"{f'{place} or {command}' if place else command}"
        )
