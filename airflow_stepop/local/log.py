"""The log file of a local job: the supervisor writes it, the hook reads it. Standard library only.

One record per line of the step: ``<epoch seconds> <line>``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

LINE_MAX_BYTES = 16 * 1024
TAIL_LINES = 20
TAIL_LINE_CHARACTERS = 1000


class LogWriter:
    """Appends the step's output as whole records. Never fails: on a full disk it counts what is lost."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._partial = b""
        self._lost_lines = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Take in what the step has written; its last line may go on."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        pieces = [piece for line in lines for piece in split_line(line)]
        if len(self._partial) > LINE_MAX_BYTES:
            *more, self._partial = split_line(self._partial)
            pieces += more
        self._append(pieces)

    def finish(self) -> None:
        """Write a last line that has no end, and what was lost."""
        pieces, self._partial = split_line(self._partial) if self._partial else [], b""
        if pieces or self._lost_lines:
            self._append(pieces)

    def _append(self, lines: Sequence[bytes]) -> None:
        self.tail.extend(
            line[:TAIL_LINE_CHARACTERS].decode("utf-8", "replace") for line in lines[-TAIL_LINES:]
        )
        lost = self._lost_lines
        notice = [b"[stepop] %d lines are missing here: the disk was full" % lost] if lost else []
        stamp = b"%.6f " % time.time()
        data = b"".join(stamp + line + b"\n" for line in (*notice, *lines))
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._lost_lines += len(lines)
            os.ftruncate(self._fd, self._size)  # no half record
        else:
            self._size += len(data)
            self._lost_lines = 0


def split_line(line: bytes) -> list[bytes]:
    """Return ``line`` in pieces of at most ``LINE_MAX_BYTES``, cut between characters; at least one."""
    pieces = []
    while len(line) > LINE_MAX_BYTES:
        cut = LINE_MAX_BYTES
        while cut > LINE_MAX_BYTES - 4 and line[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def read_records(
    path: str | os.PathLike[str], offset: int, max_bytes: int
) -> tuple[list[tuple[float, str]], int]:
    """Return the whole records (time, line) from ``offset`` on, and the offset after them."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(max(max_bytes, 2 * LINE_MAX_BYTES))
    except FileNotFoundError:
        return [], offset
    data = data[: data.rfind(b"\n") + 1]
    records = (record.partition(b" ") for record in data.split(b"\n")[:-1])
    return [(float(stamp), line.decode("utf-8", "replace")) for stamp, _, line in records], offset + len(data)
