"""Makes lines of the pieces in which Modal keeps a log. Called by ``job_logs.py``.

A piece is what the step has written at once: a part of a line, or several lines. So a cursor holds the last
incomplete line of each stream beside the position in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_stepop.hooks.common.log_cursors import LogEvent, TimeCursor

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.private import LogEntry
    from airflow_stepop.job import Cursor

SYSTEM = 3  # stream of the service's own lines: FILE_DESCRIPTOR_INFO
LATE_MS = 10_000  # a piece may come so much later than a newer one
REST_CHARS = 1 << 16  # a longer line is shown in several pieces, since a cursor is stored in a database
Line = tuple[float, str]  # seconds since the epoch, text


@dataclass(frozen=True)
class Position:
    """A position in the log of one sandbox.

    :param cursor: which pieces were read
    :param rest: stream -> the line that has no end yet
    :param has_receipt: the receipt of the job's runner was read, so the log ends before long
    """

    cursor: TimeCursor = field(default_factory=TimeCursor)
    rest: Mapping[str, str] = field(default_factory=dict)
    has_receipt: bool = False

    @classmethod
    def parse(cls, cursor: Cursor) -> Position:
        if not cursor:
            return cls()
        text, rest, *flags = json.loads(cursor)
        return cls(TimeCursor.parse(text), rest, bool(flags and flags[0]))

    def __str__(self) -> str:
        flags = [1] if self.has_receipt else []
        return json.dumps([str(self.cursor), dict(self.rest), *flags], separators=(",", ":"))

    def after(self, entries: Sequence[LogEntry], *, is_whole: bool) -> tuple[list[Line], Position]:
        """Return the lines that were not read before, and the position behind them.

        :param entries: of this sandbox, in any order
        :param is_whole: the log ends here, and so does a line without an end
        """
        streams = dict(_events(entries))
        new, cursor = self.cursor.after(streams, LATE_MS)
        rest, lines = dict(self.rest), []
        for event in new:
            stream, at = streams[event], event.time_ms / 1000
            *whole, left = (rest.pop(str(stream), "") + event.text).split("\n")
            lines += [(at, _shown(stream, line)) for line in whole]
            if len(left) >= REST_CHARS:
                lines.append((at, left))
            elif left:
                rest[str(stream)] = left
        if is_whole and rest:
            at = (new[-1].time_ms if new else max(cursor.seen.values(), default=cursor.time_ms)) / 1000
            lines += [(at, _shown(int(stream), left)) for stream, left in rest.items()]
            rest = {}
        return lines, Position(cursor, rest, self.has_receipt)


def _shown(stream: int, line: str) -> str:
    return f"[modal] {line}" if stream == SYSTEM else line


def _events(entries: Iterable[LogEntry]) -> list[tuple[LogEvent, int]]:
    """Return the pieces and the stream of each. The service gives no ids.

    Two pieces with the same time, stream and text differ by their number.
    """
    counts: Counter[tuple[int, int, str]] = Counter()
    found = []
    for entry in sorted(entries, key=lambda one: one.time_ns):
        key = entry.time_ns, entry.stream, entry.text
        counts[key] += 1
        text = f"{entry.time_ns} {entry.stream} {counts[key]} {entry.text}"
        name = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        found.append((LogEvent(entry.time_ns // 1_000_000, name, entry.text), entry.stream))
    return found
