"""What sandboxes print: a bounded ring of bytes on the worker, and entries of text in the App's logs."""

from __future__ import annotations

import bisect
import codecs
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from modal_proto import api_pb2

from tests.emulators.modal.changes import Changes

STDOUT, STDERR = api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR
SYSTEM = api_pb2.FILE_DESCRIPTOR_INFO
LONGEST_LINE = 16 << 10  # characters; a longer line becomes several entries
LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Line:
    """An entry of the App's logs. ``number`` counts all entries of the App."""

    at_ns: int
    number: int
    sandbox_id: str
    task_id: str
    source: int
    text: str
    seen_at: float  # monotonic: nobody sees it before

    @property
    def entry_id(self) -> str:
        return f"{self.at_ns // 1_000_000}-{self.number}"

    @property
    def item(self) -> api_pb2.TaskLogs:
        return api_pb2.TaskLogs(
            data=self.text,
            timestamp=self.at_ns / 1e9,
            timestamp_ns=self.at_ns,
            file_descriptor=self.source,
        )


@dataclass
class AppLogs:
    """The entries of one App in the order of their times."""

    lines: list[Line] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    def add(self, sandbox_id: str, task_id: str, source: int, text: str, lag_s: float) -> None:
        last = self.lines[-1].at_ns if self.lines else 0
        at_ns = max(time.time_ns(), last + 1)
        seen_at = time.monotonic() + lag_s
        number = len(self.lines) + 1
        self.lines.append(Line(at_ns, number, sandbox_id, task_id, source, text, seen_at))
        self.changes.notify()

    def between(self, since_ns: int, until_ns: int) -> Iterator[Line]:
        """Yield what can be seen now of the entries from ``since_ns`` on and before ``until_ns``."""
        now = time.monotonic()
        first = bisect.bisect_left(self.lines, since_ns, key=lambda line: line.at_ns)
        for line in self.lines[first:]:
            if line.at_ns >= until_ns:
                return
            if line.seen_at <= now:
                yield line


class LogStore:
    """The logs of all Apps."""

    def __init__(self) -> None:
        self._apps: dict[str, AppLogs] = {}

    def of(self, app_id: str) -> AppLogs:
        return self._apps.setdefault(app_id, AppLogs())


def batches(lines: Iterable[Line]) -> list[api_pb2.TaskLogsBatch]:
    """Return entries as the API has them: neighbours of one sandbox in one batch."""
    found: list[api_pb2.TaskLogsBatch] = []
    for line in lines:
        if not found or found[-1].task_id != line.task_id or found[-1].sandbox_id != line.sandbox_id:
            found.append(api_pb2.TaskLogsBatch(task_id=line.task_id, sandbox_id=line.sandbox_id))
        found[-1].items.append(line.item)
        found[-1].entry_id = line.entry_id
    return found


class Output:
    """One stream of a sandbox. It keeps the newest bytes, and hands text to the App's logs."""

    def __init__(self, ring_bytes: int, by_line: bool, log: Callable[[str], None]) -> None:
        self._ring_bytes, self._by_line, self._log = ring_bytes, by_line, log
        self._kept = bytearray()
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.first = 0  # the offset of the oldest byte that is kept
        self.closed = False
        self.changes = Changes()

    @property
    def end(self) -> int:
        return self.first + len(self._kept)

    def write(self, data: bytes) -> None:
        self._kept += data
        if (too_many := len(self._kept) - self._ring_bytes) > 0:
            del self._kept[:too_many]
            self.first += too_many
        self._to_log(self._decoder.decode(data))
        self.changes.notify()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._to_log(self._decoder.decode(b"", final=True), is_last=True)
            self.changes.notify()

    def read(self, offset: int, most: int) -> tuple[bytes, int]:
        """Return bytes from an offset, and where they begin: later, if older ones were dropped."""
        begin = max(offset, self.first)
        return bytes(self._kept[begin - self.first : begin - self.first + most]), begin

    def _to_log(self, text: str, *, is_last: bool = False) -> None:
        """The logs have text: bytes that are no UTF-8 become U+FFFD."""
        self._text += text
        ready = len(self._text) if is_last or not self._by_line else self._text.rfind("\n") + 1
        if len(self._text) - ready >= LONGEST_LINE:
            ready = len(self._text)
        entries = LINES.findall(self._text[:ready]) if self._by_line else [self._text[:ready]]
        self._text = self._text[ready:]
        for entry in entries:
            for first in range(0, len(entry), LONGEST_LINE):
                self._log(entry[first : first + LONGEST_LINE])
