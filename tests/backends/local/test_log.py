"""The log of a local job: records, long lines, progress bars, floods, full disks."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from airflow_stepop.hooks.local.supervisor import log as log_module
from airflow_stepop.hooks.local.supervisor.log import (
    LINE_MAX_BYTES,
    LogPosition,
    LogWriter,
    read_records,
    read_tail,
)
from airflow_stepop.job import LogLine

BEGIN = LogPosition()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no progress in between, so that a slow machine changes nothing."""
    monkeypatch.setattr(log_module, "PROGRESS_S", 10_000.0)


def texts(path: str) -> list[str]:
    """Return all lines, read one record at a time."""
    found, place = [], BEGIN
    while True:
        records, place = read_records(path, place, 1)
        if not records:
            return found
        found += [text for _, text in records]


def written(path: str, *pieces: bytes) -> list[str]:
    log = LogWriter(path)
    for piece in pieces:
        log.feed(piece)
    log.finish()
    return texts(path)


def test_lines_become_records_when_they_end(path: str) -> None:
    """Each record has the time of its line. An unfinished line is written when the log ends."""
    log = LogWriter(path)
    log.feed(b"one\ntw")
    assert texts(path) == ["one"]
    log.feed(b"o\n\nthr")
    log.feed(b"ee")
    assert texts(path) == ["one", "two", ""]
    log.finish()
    log.finish()
    assert texts(path) == ["one", "two", "", "three"]
    assert log.tail() == ["one", "two", "", "three"]
    times = [at for at, _ in read_records(path, BEGIN, 2**20)[0]]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 60


def test_a_cursor_continues_after_whole_records(tmp_path: Path) -> None:
    """Half a record is not read. The next read begins with it."""
    path = tmp_path / "log"
    path.write_bytes(b"1.000000 one\n2.000000 tw")
    records, place = read_records(str(path), BEGIN, 2**20)
    assert records == [(1.0, "one")]
    path.write_bytes(b"1.000000 one\n2.000000 two words\n")
    assert read_records(str(path), place, 2**20) == ([(2.0, "two words")], LogPosition(32, 2.0))
    assert read_records(str(path), LogPosition(32, 2.0), 2**20) == ([], LogPosition(32, 2.0))
    assert read_records(str(tmp_path / "none"), LogPosition(7, 1.0), 2**20) == ([], LogPosition(7, 1.0))
    assert LogPosition.parse(str(LogPosition(32, 2.5))) == LogPosition(32, 2.5)
    assert LogPosition.parse(None) == BEGIN


def test_lines_that_came_together_share_their_time(path: str) -> None:
    """Readers that continue in the middle of them, or read from the end, find the time as well."""
    LogWriter(path).feed(b"".join(b"line %d\n" % n for n in range(20_000)))
    every, _ = read_records(path, BEGIN, 2**20)
    assert len({at for at, _ in every}) == 1
    found, place = [], BEGIN
    while (read := read_records(path, place, 1))[0]:
        records, place = read
        found += records
        place = LogPosition.parse(str(place))
    assert found == every
    assert [text for _, text in read_tail(path, 3, BEGIN)[0]] == ["line 19997", "line 19998", "line 19999"]
    assert read_tail(path, 3, BEGIN)[0][0][0] == pytest.approx(every[0][0], abs=60)


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_long_line_is_cut_between_characters(path: str, character: str) -> None:
    """No character is split, and a notice tells how much was cut."""
    line = "a" + character * LINE_MAX_BYTES * 2
    before, cut, after = written(path, b"before\n" + line.encode() + b"\nafter\n")
    text, _, notice = cut.partition(" [stepop: ")
    assert line.startswith(text)
    assert LINE_MAX_BYTES - 4 <= len(text.encode()) <= LINE_MAX_BYTES
    assert notice.endswith("KiB of this line are left out]")
    assert (before, after) == ("before", "after")


@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n", b"\r", b"\rnew"])
def test_a_line_of_ten_megabytes_takes_little(path: str, end: bytes) -> None:
    """The line takes little memory and disk, in whatever pieces it arrives and however it ends."""
    log = LogWriter(path)
    for _ in range(160):
        log.feed(b"#" * 65536)
        assert len(log._partial) <= LINE_MAX_BYTES
    log.feed(end)
    log.feed(b"\nlast\n")
    log.finish()
    lines = [line for line in texts(path) if line]
    if end == b"\rnew":
        assert lines[-2:] == ["new", "last"]
    else:
        assert lines == ["#" * LINE_MAX_BYTES + " [stepop: 9.98 MiB of this line are left out]", "last"]
    assert os.path.getsize(path) < 3 * LINE_MAX_BYTES


def test_a_line_just_too_long_is_kept(path: str) -> None:
    """The notice would take as much room as the rest of the line."""
    line = "x" * (LINE_MAX_BYTES + 100)
    assert written(path, line.encode() + b"\n", line.encode()) == [line, line]


def test_bytes_that_are_no_text_are_replaced(path: str) -> None:
    """Any output of the step can be shown."""
    assert written(path, b"\xff\x00caf\xe9\n") == ["\N{REPLACEMENT CHARACTER}\0caf\N{REPLACEMENT CHARACTER}"]


def test_a_character_in_two_pieces_is_one(path: str) -> None:
    """A read of a pipe may end within a character."""
    euro = "€".encode()
    assert written(path, euro[:1], euro[1:] + b"\n") == ["€"]


# -- progress lines that overwrite themselves


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\r\ntwo\r\n"], ["one", "two"]),
        ([b"one\r", b"\ntwo\r", b"\n"], ["one", "two"]),
        ([b"\r 1%\r 50%\r100%\ndone\n"], ["100%", "done"]),
        ([b" 1%\r", b" 50%\r", b"100%\r"], [" 50%", "100%"]),
        ([b"\r 1%", b"\r 50%", b"\r100%", b"\n"], [" 1%", "100%"]),
        ([b"a\rb\nc\rd\r\r\n\r\r\r\n"], ["b", "d", ""]),
        ([b"\r\r\r"], []),
        ([b"\r 7%", b"\r 8%"], [" 7%", " 8%"]),
        ([b"\r 7%"], [" 7%"]),
    ],
)
def test_the_last_state_of_a_progress_line_is_kept(path: str, pieces: list[bytes], lines: list[str]) -> None:
    """The first state is shown at once, the ones in between are not."""
    assert written(path, *pieces) == lines


def test_progress_is_shown_every_few_seconds(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer does so even when the step prints nothing in the meantime."""
    now = [100.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    log = LogWriter(path)
    for percent in range(100):
        log.feed(b"\r%2d%%|###" % percent)
        now[0] += 0.5
    now[0] += 60
    log.show_progress()
    log.show_progress()
    assert texts(path) == [*(f"{p:2d}%|###" for p in range(0, 100, 10)), "99%|###"]
    log.feed(b"\r99%|###")
    log.finish()
    assert texts(path)[-2:] == ["90%|###", "99%|###"]


def test_an_endless_progress_line_takes_little(path: str) -> None:
    """A hundred megabytes of progress become a few lines."""
    log = LogWriter(path)
    block = b"".join(b"\r%3d%%|%s|" % (n % 100, b"#" * 60) for n in range(2000))
    for _ in range(700):
        log.feed(block)
        assert len(log._partial) < 100
    log.finish()
    assert os.path.getsize(path) < 10_000


# -- floods

LIMIT = 1024 * 1024


def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end(path: str) -> None:
    """The log takes no more disk than the limit, and a notice tells how much is missing."""
    flood(path, 100_000)
    sizes = [entry.stat().st_size for entry in Path(path).parent.iterdir()]
    assert 0.6 * LIMIT < sum(sizes) < 1.1 * LIMIT
    lines = texts(path)
    (gap,) = [at for at, line in enumerate(lines) if line.startswith("[stepop]")]
    assert lines[0] == "line 0".ljust(99)
    assert lines[gap].endswith(" MiB of the log are missing here: the log was too long")
    assert [int(line[5:]) for line in lines[:gap]] == list(range(gap))
    count = len(lines) - gap - 1
    assert [int(line[5:]) for line in lines[gap + 1 :]] == list(range(100_000 - count, 100_000))
    assert gap > 4000
    assert count > 3000


def test_a_cursor_survives_the_removal_of_its_lines(path: str) -> None:
    """The cursor continues with the oldest lines left, after a notice of what is missing."""
    log = flood(path, 8_000)
    _, place = read_records(path, LogPosition(700_000, 0), 1)
    assert place.position < 800_000
    flood(path, 100_000, log)
    records, after = read_records(path, place, 2**16)
    assert records[0][1].startswith("[stepop] ")
    assert records[0][0] == records[1][0]
    assert records[1][1].startswith("line ")
    assert after.position > place.position


def test_a_reader_keeps_up_with_a_flood(path: str) -> None:
    """Lines that are read while the log is written come once and in order."""
    log, place, numbers = LogWriter(path, LIMIT), BEGIN, []
    for begin in range(0, 100_000, 500):
        log.feed(b"".join(b"%d%90s\n" % (n, b"") for n in range(begin, begin + 500)))
        records, place = read_records(path, place, 2**20)
        numbers += [int(text) for _, text in records]
    assert numbers == list(range(100_000))


def test_the_last_lines_are_read_from_the_end(path: str) -> None:
    """The length of the log makes no difference, and no line before the cursor is returned."""
    log = flood(path, 100_000)
    records, place = read_tail(path, 40, BEGIN)
    assert [int(text[5:]) for _, text in records] == list(range(99_960, 100_000))
    assert read_records(path, place, 2**20)[0] == []
    assert read_tail(path, 40, place) == ([], place)
    log.feed(b"one more\n")
    assert [text for _, text in read_tail(path, 40, place)[0]] == ["one more"]
    assert read_tail(path + "x", 40, place) == ([], place)


def test_last_lines_that_are_long_are_whole(path: str) -> None:
    """They are whole even across the border of two files."""
    log = LogWriter(path, LIMIT)
    for n in range(200):
        log.feed(b"%d" % n + b"x" * LINE_MAX_BYTES * 2 + b"\n")
    numbers = [int(text.partition("x")[0]) for _, text in read_tail(path, 20, BEGIN)[0]]
    assert numbers == list(range(180, 200))


def flood(path: str, count: int, log: LogWriter | None = None) -> LogWriter:
    """Write lines of 100 bytes, many at a time."""
    log = log or LogWriter(path, LIMIT)
    for begin in range(0, count, 400):
        log.feed(b"".join(f"line {n}".ljust(99).encode() + b"\n" for n in range(begin, begin + 400)))
    return log


# -- disks


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_full_disk_loses_lines_and_says_how_many(path: str) -> None:
    """No record is written in part. Once there is room again, the log tells how many lines are missing."""
    pid = os.fork()
    if pid == 0:  # a file size limit acts as a disk that is full at 100 bytes
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = LogWriter(path)
        log.feed(b"first\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        log.feed(b"x" * 200 + b"\n" + b"second\n")
        log.feed(b"y" * 200 + b"\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.feed(b"last\n")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert texts(path) == ["first", "[stepop] 3 lines are missing here: the disk was full", "last"]


def test_a_disk_that_is_full_when_the_next_file_is_due(path: str) -> None:
    """The writer tries the next file again, and counts the lines lost meanwhile."""
    log = flood(path, 6_000)
    folder = Path(path).parent
    blocked = [folder / f"log.{log._begin + log._size}"]
    log._size, log._room = log._size, 0  # the next line needs another file
    blocked[0].mkdir()
    log.feed(b"lost\n")
    blocked[0].rmdir()
    log.feed(b"kept\n")
    assert [text for _, text in read_tail(path, 2, BEGIN)[0]] == [
        "[stepop] 1 lines are missing here: the disk was full",
        "kept",
    ]


def test_a_record_of_logging_behind_a_progress_bar(path: str, patient: None) -> None:
    """The bar's last state and the record are one line of the log, and become two, each with its level."""
    output = written(path, b"\r10%|##", b"\r20%|####", b"\x1fWARNING:root: at 20\n", b"\r30%|######", b"\n")
    lines = [line for text in output for line in LogLine.printed(0.0, text)]
    assert [(line.level, line.text) for line in lines] == [
        ("info", "10%|##"),  # the first state of a bar is shown at once
        ("info", "20%|####"),
        ("warning", "WARNING:root: at 20"),
        ("info", "30%|######"),
    ]


def test_a_record_of_logging_of_a_megabyte(path: str) -> None:
    """It is cut like every long line, and keeps its level. The last lines of a failure have no mark."""
    log = LogWriter(path)
    log.feed(b"\x1fERROR:root: " + b"x" * (1 << 20) + b"\n\x1fINFO:root: next\n")
    first, second = [line for text in texts(path) for line in LogLine.printed(0.0, text)]
    assert (first.level, second.level) == ("error", "info")
    assert first.text.startswith("ERROR:root: xxx")
    assert "of this line are left out]" in first.text
    assert [text[:11] for text in log.tail()] == ["ERROR:root:", "INFO:root: "]


def test_very_many_carriage_returns_cost_no_time(path: str, patient: None) -> None:
    """The supervisor that reads them also ends the step at its timeout."""
    returns = b"\r" * 1_000_000
    assert written(path, returns + b"one\n" + returns, b"two" + returns + b"\nthree" + returns) == [
        "one",
        "two",
        "three",
    ]
