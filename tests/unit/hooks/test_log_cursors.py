"""Cursors in logs, against small services that return events or bytes; and what a line looks like."""

from __future__ import annotations

import random

import pytest

from airflow_stepop.hooks.base import LogEvent, OffsetCursor, TimeCursor, find_receipt, split_lines, visible
from airflow_stepop.hooks.common import log_cursors
from airflow_stepop.runner.frames import to_lines
from airflow_stepop.runner.protocol import RECEIPT_PREFIX


class Events:
    """A log of events. An answer has those since a time, and ends anywhere, also within a millisecond."""

    def __init__(self, seed: int = 1, page: int = 7) -> None:
        self.log: list[LogEvent] = []
        self.random = random.Random(seed)
        self.page = page

    def add(self, time_ms: int, text: str) -> None:
        self.log.append(LogEvent(time_ms, f"id-of-an-event-with-the-number-{len(self.log)}", text))

    def since(self, time_ms: int) -> list[LogEvent]:
        found = sorted((event for event in self.log if event.time_ms >= time_ms), key=lambda one: one.time_ms)
        first = sum(event.time_ms == time_ms for event in found)  # a reader goes on while all is known
        found = found[: first + self.page]
        self.random.shuffle(found)
        return found


def read(events: Events, cursor: str | None, **options: int) -> tuple[list[str], str]:
    """Read what is new with a cursor that was stored as text."""
    place = TimeCursor.parse(cursor)
    new, after = place.after(events.since(place.time_ms), **options)
    assert [event.time_ms for event in new] == sorted(event.time_ms for event in new)
    return [event.text for event in new], str(after)


@pytest.mark.parametrize("seed", range(20))
def test_many_events_of_one_millisecond_across_reads(seed):
    """Nothing is lost and nothing is repeated, wherever a read ended."""
    events, cursor, found, now = Events(seed), None, [], 1_700_000_000_000
    for number in range(300):
        now += events.random.choice([0, 0, 0, 0, 1])
        events.add(now, f"line {number}")
        if events.random.random() < 0.3:
            texts, cursor = read(events, cursor)
            found += texts
    while texts := (answer := read(events, cursor))[0]:
        found, cursor = found + texts, answer[1]
    assert sorted(found) == sorted(event.text for event in events.log)
    assert len(TimeCursor.parse(cursor).seen) == sum(event.time_ms == now for event in events.log)


def test_equal_lines_of_one_millisecond_are_all_shown():
    events = Events(page=100)
    for _ in range(5):
        events.add(7, "the same")
    texts, cursor = read(events, None)
    assert texts == ["the same"] * 5
    events.add(7, "the same")
    assert read(events, cursor)[0] == ["the same"]


def test_an_event_that_comes_late():
    events = Events(page=100)
    for time_ms in (1000, 2000, 3000):
        events.add(time_ms, f"at {time_ms}")
    cursor = read(events, None, late_ms=1500)[1]
    for time_ms in (2500, 1600, 1400):
        events.add(time_ms, f"late, at {time_ms}")
    texts, cursor = read(events, cursor, late_ms=1500)
    assert texts == ["late, at 1600", "late, at 2500"]
    assert read(events, cursor, late_ms=1500)[0] == []


def test_an_event_twice_in_one_answer():
    """A stream of the service may show an event on two pages."""
    event = LogEvent(5, "a", "once")
    new, after = TimeCursor().after([event, event])
    assert new == [event]
    assert after == TimeCursor(5, {"a": 5})


def test_an_empty_read_keeps_the_cursor():
    cursor = str(TimeCursor(5, {"a": 5}, "algo-1"))
    new, after = TimeCursor.parse(cursor, "algo-1").after([])
    assert (new, str(after)) == ([], cursor)


def test_a_cursor_of_another_source_begins_anew():
    """A job that starts again has a new log stream. Its times may be those of the last one."""
    cursor = str(TimeCursor(5, {"a": 5}, "job/algo-1-100"))
    assert TimeCursor.parse(cursor, "job/algo-1-200") == TimeCursor(source="job/algo-1-200")
    assert OffsetCursor.parse(str(OffsetCursor(9, "one")), "two") == OffsetCursor(0, "two")
    assert OffsetCursor.parse(str(OffsetCursor(9, "one")), "one") == OffsetCursor(9, "one")


def test_a_cursor_stays_small():
    """It is stored in Airflow's database."""
    events = [LogEvent(time_ms, f"{'x' * 50}-{time_ms}", "") for time_ms in range(20_000)]
    new, after = TimeCursor().after(events, late_ms=60_000)
    assert len(new) == 20_000
    assert len(after.seen) == log_cursors.SEEN_EVENTS
    assert len(str(after)) < 25 * log_cursors.SEEN_EVENTS
    assert TimeCursor.parse(str(after)) == after


# -- bytes


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_read_in_pieces(seed):
    """Whatever the reads cut: each line comes once and whole."""
    source = random.Random(seed)
    lines = ["".join(source.choices("abc\r\0äß€😀 ", k=source.randrange(12))) for _ in range(200)]
    data, found, cursor, there = "\n".join(lines).encode(), [], None, 0
    while there < len(data) or OffsetCursor.parse(cursor).offset < len(data):
        there = min(len(data), there + source.randrange(60))
        begin = OffsetCursor.parse(cursor)
        is_over = there == len(data)
        texts, after = begin.after(data[begin.offset : there], is_over=is_over)
        found, cursor = found + texts, str(after)
    assert found == (lines if lines[-1] else lines[:-1])


def test_a_line_that_is_too_long_comes_in_pieces(monkeypatch):
    """Otherwise a step that prints no line end would show nothing, and each read would be larger."""
    monkeypatch.setattr(log_cursors, "LINE_BYTES", 10)
    data = ("ä" * 12).encode()
    texts, after = OffsetCursor().after(data[:9], is_over=False)
    assert (texts, after.offset) == ([], 0)
    texts, after = OffsetCursor(1).after(data[1:], is_over=False)
    assert (texts, after.offset) == (["\ufffd" + "ä" * 4], 10), "cut between two characters"
    assert after.after(data[10:], is_over=True) == (["ä" * 7], OffsetCursor(24))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb", ["a\r", "b"]),
        (b"a\rb\x0bc\x1cd\x85\xe2\x80\xa8e\n", ["a\rb\x0bc\x1cd\ufffd\u2028e"]),
        (b"\xff\0", ["\ufffd\0"]),
    ],
)
def test_only_a_line_feed_ends_a_line(data, lines):
    assert split_lines(data) == lines
    assert split_lines(data, is_whole=False) == lines[: data.count(b"\n")]


# -- what is shown


def shown(*texts):
    return [(line.text, line.level) for line in visible((1.0, text) for text in texts)]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("plain", ["plain"]),
        ("", [""]),
        ("windows\r", ["windows"]),
        (" 10%\r 50%\r100%", ["100%"]),
        ("100%\r", ["100%"]),
        ("\r\r", [""]),
        ("nul\0s\0", ["nul\0s\0"]),
        (f"{RECEIPT_PREFIX}{{}}", []),
        (f"no line end{RECEIPT_PREFIX}{{}}", ["no line end"]),
        (f"10%\r100%{RECEIPT_PREFIX}{{}}\r", ["100%"]),
    ],
)
def test_what_is_shown_of_a_line(text, own):
    assert shown(text) == [(line, "info") for line in own]


def test_pieces_of_the_outcome_are_not_shown():
    frames = to_lines(bytes(9000), b"key")
    assert shown(*frames, f"printed{frames[0]}", "after") == [("printed", "info"), ("after", "info")]


def test_a_record_of_logging_keeps_its_level():
    """Also after a progress bar on the same line."""
    assert shown("\x1fWARNING:x: a") == [("WARNING:x: a", "warning")]
    assert shown(" 10%\r 50%\x1fERROR:x: b\r") == [(" 50%", "info"), ("ERROR:x: b", "error")]
    assert shown(" 50%\r\x1fERROR:x: c\rd") == [("ERROR:x: c\rd", "error")]


def test_a_receipt_after_text_on_the_same_line_is_found():
    receipt = '{"protocol": 1, "digest": "d1", "size": 7}'
    lines = ["x", f"no line end{RECEIPT_PREFIX}{receipt}", f"{RECEIPT_PREFIX}damaged"]
    found = find_receipt(lines)
    assert found is not None
    assert (found.digest, found.size) == ("d1", 7)
    assert find_receipt(["x", "y"]) is None
