"""The log of a local job: the supervisor writes it with :class:`LogWriter`, ``JobFolder`` reads it.

**Format:** One record per line of the step: ``<seconds since the epoch> <line>``. The seconds are left out if
they are those of the record before.

**Size:** A long log keeps its beginning and its end. The file ``log`` holds the beginning. Files
``log.<position>`` hold the end; the oldest of them are deleted. A position is a number of bytes: all bytes
that were written to the log before. So a cursor stays valid when the lines after it are deleted. A reader
then gets a line with the number of missing bytes.

Standard library only.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from airflow_stepop.hooks.local.supervisor.state import opened_file
from airflow_stepop.runner.sizes import shown_size

LINE_MAX_BYTES = 16 * 1024
NOTICE_MAX_BYTES = 256  # room in a line for the notice that a part of it was left out
LIMIT_BYTES = 128 * 1024 * 1024  # on disk, beginning and end together
END_FILES = 4  # number of files for the end of the log
READ_BYTES = 1024 * 1024
PROGRESS_S = 5.0  # time between two copies of a line that overwrites itself (a progress bar)
END_OF_TIME = 253402300800.0  # datetime ends with the year 9999
TAIL_LINES = 20
TAIL_LINE_CHARACTERS = 1000
LEVEL_MARK = b"\x1f"  # of the runner's protocol

# A match begins at the first of several carriage returns only, else it takes the square of their number
_LINE_END = re.compile(rb"(?<!\r)\r+\n")
_OVERWRITTEN = re.compile(rb"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)

Records = list[tuple[float, str]]


class LogPosition(NamedTuple):
    """A position in the log, and the time of the record before it. As text, it is the cursor of a local job.

    :param position: bytes that were written to the log before
    :param time: seconds since the epoch
    """

    position: int = 0
    time: float = 0.0

    @classmethod
    def parse(cls, cursor: str | None) -> LogPosition:
        position, _, time_of_record = (cursor or "0").partition("@")
        return cls(int(position), float(time_of_record or 0))

    def __str__(self) -> str:
        return f"{self.position}@{self.time:.6f}"


class LogWriter:
    """Appends the step's output to the log as whole records.

    The writer never raises an error: on a full disk it counts the lost lines. It works on blocks of output
    and seldom on single lines, because a step may print lines faster than Python can process each one.

    :param path: path of the file ``log``
    :param limit_bytes: maximum size of the log on disk
    :param now: returns seconds since the epoch, and never less than before: the log's times must not decrease
    """

    def __init__(
        self, path: str, limit_bytes: int = LIMIT_BYTES, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self._path = path
        self._room = limit_bytes // 2  # maximum size of the current file
        self._end_room = limit_bytes // 2 // END_FILES  # maximum size of a file of the log's end
        self._ends: deque[str] = deque()  # paths of the files of the log's end, oldest first
        self._begin = 0  # position at which the current file begins
        self._fd = _open(path)  # the current file
        self._size = os.fstat(self._fd).st_size
        self._partial = b""  # the unfinished last line, as a terminal would show it
        self._cut_bytes = 0  # bytes of the unfinished line that were left out, because it is too long
        self._is_progress = False  # the unfinished line overwrites itself
        self._shown = (-PROGRESS_S, b"")  # the last copy of the unfinished line: when, and its bytes
        self._lost_lines = 0  # lines that were not written since the disk is full
        self._last = b""  # the last lines, for tail()

    def feed(self, data: bytes) -> None:
        """Write the complete lines of ``data``, output of the step, and keep an unfinished last line."""
        if self._cut_bytes:
            data = self._skip(data)
        text = self._partial + data
        end = text.rfind(b"\n") + 1
        lines, partial = text[:end], text[end:]
        bare = partial.rstrip(b"\r")
        self._is_progress = b"\r" in bare or (self._is_progress and not lines)
        self._partial = bare[bare.rfind(b"\r") + 1 :] + partial[len(bare) : len(bare) + 1]
        if b"\r" in lines:
            lines = _OVERWRITTEN.sub(b"", _LINE_END.sub(b"\n", lines))
        if len(self._partial) > LINE_MAX_BYTES + NOTICE_MAX_BYTES:
            kept = _character_end(self._partial, LINE_MAX_BYTES)
            self._cut_bytes, self._partial = len(self._partial) - kept, self._partial[:kept]
        if lines:
            self._append(_cut_long_lines(lines))
        self.show_progress()

    def show_progress(self) -> None:
        """Write a copy of an unfinished line that overwrites itself, at most every five seconds."""
        now = time.monotonic()
        shown_at, shown = self._shown
        if self._is_progress and self._partial != shown and now - shown_at >= PROGRESS_S:
            self._shown = now, self._partial
            if line := self._partial.strip(b"\r"):
                self._append(line + b"\n")

    def finish(self) -> None:
        """Write an unfinished last line, and the number of lost lines. Call this method once, at the end."""
        is_shown = self._is_progress and self._partial == self._shown[1]
        line = b"" if is_shown else self._partial.rstrip(b"\r")
        if self._cut_bytes:
            line += _notice(self._cut_bytes)
        self._partial, self._cut_bytes = b"", 0
        if line or self._lost_lines:
            self._append(line + b"\n" if line else b"")

    def tail(self) -> list[str]:
        """Return the last 20 lines, at most 1000 bytes of each."""
        lines = self._last.replace(LEVEL_MARK, b"").split(b"\n")[-TAIL_LINES - 1 : -1]
        return [line[:TAIL_LINE_CHARACTERS].decode("utf-8", "replace") for line in lines]

    def _skip(self, data: bytes) -> bytes:
        """Leave out the rest of a line that is too long. Return the bytes after this line."""
        ends = [at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0]
        end = min(ends, default=len(data))
        self._cut_bytes += end
        if ends:
            self._partial += _notice(self._cut_bytes)
            self._cut_bytes = 0
        return data[end:]

    def _append(self, lines: bytes) -> None:
        self._last = (self._last + lines)[-TAIL_LINES * TAIL_LINE_CHARACTERS :]
        lost = self._lost_lines
        notice = b"[stepop] %d lines are missing here: the disk was full\n" % lost if lost else b""
        stamp = b"%.6f " % self._now()
        text = notice + lines
        data = stamp + text[:-1].replace(b"\n", b"\n ") + b"\n"
        try:
            if self._size >= self._room:
                self._begin_file()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._lost_lines += lines.count(b"\n")
            os.ftruncate(self._fd, self._size)  # remove a record that was written in part
        else:
            self._size += len(data)
            self._lost_lines = 0

    def _begin_file(self) -> None:
        path = f"{self._path}.{self._begin + self._size}"
        fd = _open(path)
        os.close(self._fd)
        self._fd = fd
        self._begin, self._size, self._room = self._begin + self._size, 0, self._end_room
        self._ends.append(path)
        if len(self._ends) > END_FILES:
            os.unlink(self._ends.popleft())


def read_records(path: str, place: LogPosition, max_bytes: int) -> tuple[Records, LogPosition]:
    """Return the complete records (time, line) after ``place``, and the position after them.

    :param path: path of the file ``log``
    :param max_bytes: number of bytes to read at most, or the size of the longest record if that is larger
    """
    while True:
        try:
            return _read_records(path, place, max_bytes)
        except FileNotFoundError:  # the writer has deleted the oldest file, or the whole log is gone
            if not os.path.exists(path):
                return [], place


def read_tail(path: str, count: int, since: LogPosition) -> tuple[Records, LogPosition]:
    """Return the last ``count`` records after ``since``, and the position after them."""
    files = _files(path)
    if not files:
        return [], since
    begin, name = files[-1]
    end = os.stat(name)
    end_position = begin + end.st_size
    position = _record_begin(path, end_position - count * (LINE_MAX_BYTES + 2 * NOTICE_MAX_BYTES))
    place = max(since, LogPosition(position, end.st_mtime))
    last: deque[tuple[float, str]] = deque(maxlen=count)
    while place.position < end_position:
        records, place = read_records(path, place, READ_BYTES)
        if not records:
            break
        last.extend(records)
    return list(last), place


def _read_records(path: str, place: LogPosition, max_bytes: int) -> tuple[Records, LogPosition]:
    files = _files(path)
    followers = [begin for begin, _ in files[1:]]
    position, missing = place.position, 0
    for (begin, name), following in zip(files, [*followers, None], strict=False):
        if following is not None and position >= following:
            continue
        if position < begin:
            position, missing = begin, begin - position
        with opened_file(name) as file:
            file.seek(position - begin)
            data = file.read(max(max_bytes, 2 * LINE_MAX_BYTES))
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= 2 * LINE_MAX_BYTES:  # the file is damaged: no record is so long
            end = len(data)
        if end:
            records = list(_parse(data[:end].removesuffix(b"\n"), place.time))
            after = LogPosition(position + end, records[-1][0])
            if missing:
                text = f"[stepop] {shown_size(missing)} of the log are missing here: the log was too long"
                records.insert(0, (records[0][0], text))
            return records, after
    return [], place


def _parse(data: bytes, when: float) -> Iterator[tuple[float, str]]:
    for record in data.split(b"\n"):
        stamp, _, line = record.partition(b" ")
        if stamp:
            at = _time_of(stamp)
            when, line = (when, record) if at is None else (at, line)
        yield when, line.decode("utf-8", "replace")


def _time_of(stamp: bytes) -> float | None:
    """Return the time in ``stamp``, in seconds since the epoch.

    ``None``: this is not a time. The record is damaged, and the caller takes all of it as the line.
    """
    try:
        when = float(stamp)
    except ValueError:
        return None
    return when if 0 <= when < END_OF_TIME else None


def _record_begin(path: str, position: int) -> int:
    """Return where the first record at or after ``position`` begins; 0 if ``position`` is not above 0."""
    for begin, name in reversed(_files(path)):
        if position <= begin:
            continue
        with opened_file(name) as file:
            file.seek(position - 1 - begin)
            data = file.read(2 * LINE_MAX_BYTES)
        return position + data.find(b"\n")
    return 0


def _files(path: str) -> list[tuple[int, str]]:
    """Return the position and the path of every file of the log, in order; an empty list without a log."""
    if not os.path.exists(path):
        return []
    folder, name = os.path.split(path)
    ends = (entry[len(name) + 1 :] for entry in os.listdir(folder or ".") if entry.startswith(f"{name}."))
    return [
        (0, path),
        *((at, f"{path}.{at}") for at in sorted(int(end) for end in ends if _is_position(end))),
    ]


def _is_position(text: str) -> bool:
    """Return whether a file's name ends with a position. The step may have put other files beside the log."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _cut_long_lines(lines: bytes) -> bytes:
    """Return ``lines`` with every long line cut between two characters, and a notice at the cut."""
    pieces = []
    done = begin = 0
    while len(lines) - begin > LINE_MAX_BYTES:
        newline = lines.rfind(b"\n", begin, begin + LINE_MAX_BYTES + 1)
        if newline < 0:
            newline = lines.index(b"\n", begin)
            kept = _character_end(lines, begin + LINE_MAX_BYTES)
            if newline - kept > NOTICE_MAX_BYTES:
                pieces += [lines[done:kept], _notice(newline - kept)]
                done = newline
        begin = newline + 1
    return b"".join([*pieces, lines[done:]])


def _character_end(data: bytes, at: int) -> int:
    """Return ``at``, or the begin of the UTF-8 character if ``at`` is inside one."""
    least = at - 4
    while at > least and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _notice(count: int) -> bytes:
    return b" [stepop: %s of this line are left out]" % shown_size(count).encode()
