"""Reads logs piece by piece: cursors that lose and repeat no line, and what a line looks like to people.

A hook's ``logs`` and ``tail`` use a cursor for the kind of log that their service has:

- :class:`TimeCursor` for events with a time and an id (a query returns what is newer than a time);
- :class:`OffsetCursor` for bytes (a read begins at an offset).

:func:`visible` makes the lines of the task's log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.job import LogLine
from airflow_stepop.runner.protocol import FRAME_PREFIX, LEVEL_MARK, RECEIPT_PREFIX

if TYPE_CHECKING:
    from airflow_stepop.job import Cursor

LINE_BYTES = 256 * 1024  # a longer line is shown in several pieces
SEEN_EVENTS = 5000  # so many events at most are remembered, if they are not all of one millisecond
_ID_CHARACTERS = 12  # of a remembered id


class LogEvent(NamedTuple):
    """One event of a log.

    :param time_ms: milliseconds since the epoch
    :param id: the service's own id of the event, unique within the log
    """

    time_ms: int
    id: str
    text: str


@dataclass(frozen=True)
class TimeCursor:
    """A position in a log whose service returns the events since a time.

    Several events have the same millisecond, and an event may come late. So the cursor holds the time to ask
    from, and the ids of the events at or after this time that were read.

    :param time_ms: ask for the events at or after this time, in milliseconds since the epoch
    :param seen: id of an event that was read -> its time
    :param source: the log that the cursor belongs to, for example the name of a log stream
    """

    time_ms: int = 0
    seen: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def parse(cls, cursor: Cursor, source: str = "") -> TimeCursor:
        """Return the cursor that ``str()`` wrote; the beginning of ``source`` for one of another source."""
        if not cursor:
            return cls(source=source)
        time_ms, seen, of = json.loads(cursor)
        if of != source:
            return cls(source=source)
        return cls(time_ms, {short: time_ms + later for short, later in seen.items()}, source)

    def __str__(self) -> str:
        seen = {short: at - self.time_ms for short, at in sorted(self.seen.items())}
        return json.dumps([self.time_ms, seen, self.source], separators=(",", ":"))

    def is_new(self, event: LogEvent) -> bool:
        """Return whether the event was not read before."""
        return event.time_ms >= self.time_ms and _short(event.id) not in self.seen

    def after(self, events: Iterable[LogEvent], late_ms: int = 0) -> tuple[list[LogEvent], TimeCursor]:
        """Return the events that were not read before, oldest first, and the cursor behind them.

        :param events: answer of the service to a query from ``time_ms``, in any order
        :param late_ms: how much later than a newer event an event may come, in milliseconds
        """
        seen, new = dict(self.seen), []
        for event in events:
            short = _short(event.id)
            if event.time_ms >= self.time_ms and short not in seen:
                seen[short] = event.time_ms
                new.append(event)
        begin = max(self.time_ms, max(seen.values(), default=0) - late_ms)
        kept = {short: at for short, at in seen.items() if at >= begin}
        if len(kept) > SEEN_EVENTS:
            begin = sorted(kept.values())[-SEEN_EVENTS]
            kept = {short: at for short, at in kept.items() if at >= begin}
        new.sort(key=lambda event: event.time_ms)  # the sort keeps the order of events of one millisecond
        return new, TimeCursor(begin, kept, self.source)

    def since(self, time_ms: int) -> TimeCursor:
        """Return the cursor for a reader that has left out what is older than ``time_ms``: it stays out."""
        if time_ms <= self.time_ms:
            return self
        kept = {short: at for short, at in self.seen.items() if at >= time_ms}
        return TimeCursor(time_ms, kept, self.source)


def _short(event_id: str) -> str:
    """Return a short form of an id: a cursor is stored in Airflow's database."""
    if len(event_id) <= _ID_CHARACTERS:
        return event_id
    return hashlib.sha256(event_id.encode(errors="surrogatepass")).hexdigest()[:_ID_CHARACTERS]


@dataclass(frozen=True)
class OffsetCursor:
    """A position in a log whose bytes can be read from an offset.

    :param offset: number of bytes that were read
    :param source: the log that the cursor belongs to, for example the name of a file
    """

    offset: int = 0
    source: str = ""

    @classmethod
    def parse(cls, cursor: Cursor, source: str = "") -> OffsetCursor:
        """Return the cursor that ``str()`` wrote; the beginning of ``source`` for one of another source."""
        offset, of = json.loads(cursor) if cursor else (0, source)
        return cls(offset if of == source else 0, source)

    def __str__(self) -> str:
        return json.dumps([self.offset, self.source], separators=(",", ":"))

    def after(self, data: bytes, *, is_over: bool) -> tuple[list[str], OffsetCursor]:
        """Return the complete lines at the beginning of ``data``, and the cursor behind them.

        :param data: bytes of the log from ``offset`` on, all or some of them
        :param is_over: ``data`` ends with the log, and nothing is added to the log any more. Otherwise the
            last line may be incomplete. It is left for the next read, unless it is very long
        """
        size = len(data) if is_over else data.rfind(b"\n") + 1
        if not size and len(data) >= LINE_BYTES:
            size = _character_end(data, LINE_BYTES)
        return split_lines(data[:size]), OffsetCursor(self.offset + size, self.source)


def _character_end(data: bytes, at: int) -> int:
    """Return ``at``, or the begin of the UTF-8 character if ``at`` is inside one."""
    least = at - 4
    while at > least and at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def split_lines(data: bytes, *, is_whole: bool = True) -> list[str]:
    """Return the lines of some bytes of a log. Bytes that are not UTF-8 are replaced.

    Only a line feed ends a line. A line may contain a carriage return, for example that of a progress bar.

    :param is_whole: ``False`` drops a last line without a line end, because the read ends within it
    """
    *lines, rest = data.split(b"\n")
    if rest and is_whole:
        lines.append(rest)
    return [line.decode("utf-8", "replace") for line in lines]


def visible(lines: Iterable[tuple[float, str]]) -> list[LogLine]:
    """Return the lines as the task's log shows them.

    - A receipt, and a line that carries a piece of the outcome, are left out. Text in front of them stays:
      the step has printed it without a line end.
    - Of a line that overwrites itself (a progress bar), the last state stays, as on a terminal.
    - Control characters, also NUL, stay as they are: the task's log shows them as symbols.

    :param lines: (seconds since the epoch, the line without its line end)
    """
    found: list[LogLine] = []
    for at, text in lines:
        own = _own(text)
        if own is not None:
            found += LogLine.printed(at, own)
    return found


def _own(text: str) -> str | None:
    """Return the part of a line that the step has printed; ``None`` if it has printed nothing of the line."""
    ends = [end for prefix in (RECEIPT_PREFIX, FRAME_PREFIX) if (end := text.find(prefix)) >= 0]
    own = text[: min(ends)] if ends else text
    if ends and not own:
        return None
    own, mark, record = own.rstrip("\r").partition(LEVEL_MARK)
    return own.rpartition("\r")[2] + mark + record
