"""Writes the step's output into Airflow's task log.

The worker and the trigger use this module, for every backend.

Airflow's UI loads a task's log file as a whole, and each line costs Airflow CPU time. So the step's share of
the log is limited (``[stepop] log_limit``). Of a step that prints more, the log holds the first lines and the
last 200 lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.core.printable import printable
from airflow_stepop.core.units import parse_size, shown_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import LogLine

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import Cursor, JobHandle, LogLevel

DEFAULT_LIMIT = "16MB"
LAST_LINES = 200
SOURCE = "step"  # the name of the source of the step's own lines in Airflow's log page
LINE_COST = 250  # bytes that Airflow's log file needs for each line in addition to the text


def configured_limit() -> int:
    """Return the bytes of ``[stepop] log_limit``.

    :raises StepConfigError: the configured value is not a size
    """
    from airflow.sdk.configuration import conf

    text = str(conf.get("stepop", "log_limit", fallback="") or DEFAULT_LIMIT)
    try:
        return parse_size(text, "log_limit")
    except StepConfigError as error:
        raise StepConfigError(f"[stepop] log_limit: {error}") from None


class TaskLog:
    """The task log of one job.

    :meth:`write` writes every line, also beyond the limit. The caller stops when :attr:`is_full`.

    :param log: the task's logger
    :param limit: bytes of the task log that the step may use
    :ivar receipt: the last receipt that :meth:`rest` has read: see :class:`~airflow_stepop.job.LogChunk`
    """

    def __init__(self, log: Logger, hook: StepHook, handle: JobHandle, limit: int) -> None:
        self._log = log
        self.hook = hook
        self._handle = handle
        self._limit = limit
        self._left = limit
        self._has_note = False
        self.receipt: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether the step has used up its share of the task log."""
        return self._left < 0

    def write(self, lines: Sequence[LogLine], has_more: bool = False) -> None:
        """Write the lines, each with its level and with the time at which the step printed the line.

        :param has_more: more lines of the same read follow at once. The note that the log is full comes after
            them, since it says that no line follows
        """
        for line in lines:
            text = printable(line.text)
            self._write(text, line.time, line.level)
            self._left -= len(text) + LINE_COST
        if self.is_full and not self._has_note and not has_more:
            self._has_note = True
            self._write(self._full(), lines[-1].time)

    def rest(self, cursor: Cursor) -> Iterator[Sequence[LogLine]]:
        """Yield the lines that the ended job printed after ``cursor``, to be passed to :meth:`write`.

        When the log is full, only the last lines follow. Blocks while it reads.
        """
        while not self.is_full:
            chunk = self.hook.logs({self._handle: cursor}).get(self._handle)
            if chunk is None or not (chunk.lines or chunk.receipt):
                return
            cursor, self.receipt = chunk.cursor, chunk.receipt or self.receipt
            if chunk.lines:
                yield chunk.lines
        last = self.hook.tail(self._handle, LAST_LINES, cursor)
        self.receipt, lines = last.receipt or self.receipt, last.lines
        if lines:
            title = f"[stepop] The last {len(lines)} lines of the step:"
            yield [LogLine(lines[0].time, title), *lines]

    def _write(self, text: str, time: float, level: LogLevel = "info") -> None:
        if level == "debug" and not self._log.isEnabledFor(logging.DEBUG):
            level = "info"  # the step has chosen to log the line, and Airflow would leave the line out
        write = getattr(self._log, level)
        try:
            when = datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):  # not a valid time; the line is written without it
            write(text, logger=SOURCE)
        else:
            write(text, timestamp=when, logger=SOURCE)

    def _full(self) -> str:
        place = self.hook.link(self._handle)
        command = f"airflow stepop logs {self._handle.name}"
        return (
            f"[stepop] The step has printed as much as a task's log may hold ([stepop] log_limit, "
            f"{shown_size(self._limit)}). This log leaves out what the step prints from here on, except for "
            f"the last {LAST_LINES} lines, which follow at the end. The whole output, while the job is kept: "
            f"{f'{place} or {command}' if place else command}"
        )
