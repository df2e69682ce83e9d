"""The log of a local job: records, long lines, full disks."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from airflow_stepop.local.log import LINE_MAX_BYTES, LogWriter, read_records, split_line


def texts(path: Path) -> list[str]:
    return [text for _, text in read_records(path, 0, 2**20)[0]]


def test_lines_become_records_when_they_end(tmp_path: Path) -> None:
    """Each has the time at which it came; a line without an end is written at the end."""
    path = tmp_path / "log"
    log = LogWriter(str(path))
    log.feed(b"one\ntw")
    assert texts(path) == ["one"]
    log.feed(b"o\n\nthr")
    log.feed(b"ee")
    assert texts(path) == ["one", "two", ""]
    log.finish()
    log.finish()
    assert texts(path) == ["one", "two", "", "three"]
    assert list(log.tail) == ["one", "two", "", "three"]
    times = [at for at, _ in read_records(path, 0, 2**20)[0]]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 60


def test_a_cursor_continues_after_whole_records(tmp_path: Path) -> None:
    """Half a record is not read; the next reading begins with it."""
    path = tmp_path / "log"
    path.write_bytes(b"1.000000 one\n2.000000 tw")
    records, offset = read_records(path, 0, 2**20)
    assert records == [(1.0, "one")]
    path.write_bytes(b"1.000000 one\n2.000000 two words\n")
    assert read_records(path, offset, 2**20) == ([(2.0, "two words")], 32)
    assert read_records(path, 32, 2**20) == ([], 32)
    assert read_records(tmp_path / "none", 7, 2**20) == ([], 7)


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_long_line_is_cut_between_characters(character: str) -> None:
    """No piece is too long, and nothing is lost or broken."""
    line = ("a" + character * LINE_MAX_BYTES).encode()
    pieces = split_line(line)
    assert b"".join(pieces) == line
    assert max(map(len, pieces)) <= LINE_MAX_BYTES
    assert all(piece.decode() for piece in pieces)


def test_a_line_that_never_ends_is_written_in_pieces(tmp_path: Path) -> None:
    """A progress bar without line ends does not fill the memory of the supervisor."""
    log = LogWriter(str(tmp_path / "log"))
    for _ in range(5):
        log.feed(b"#" * LINE_MAX_BYTES)
    assert len(texts(tmp_path / "log")) == 4
    log.finish()
    assert "".join(texts(tmp_path / "log")) == "#" * LINE_MAX_BYTES * 5


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    """Whatever the step prints can be shown."""
    log = LogWriter(str(tmp_path / "log"))
    log.feed(b"\xff\x00caf\xe9\r\n")
    assert texts(tmp_path / "log") == ["\N{REPLACEMENT CHARACTER}\0caf\N{REPLACEMENT CHARACTER}\r"]


def test_a_full_disk_loses_lines_and_says_how_many(tmp_path: Path) -> None:
    """No record is half there; when there is room again, the log says what is missing."""
    path = tmp_path / "log"
    pid = os.fork()
    if pid == 0:  # a limit on file sizes is a disk that is full at 100 bytes
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = LogWriter(str(path))
        log.feed(b"first\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        log.feed(b"x" * 200 + b"\n" + b"second\n")
        log.feed(b"y" * 200 + b"\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.feed(b"last\n")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert texts(path) == ["first", "[stepop] 3 lines are missing here: the disk was full", "last"]
