"""Lines of the pieces in which Modal keeps a log: none is lost, repeated or cut."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_stepop.hooks.modal.log_text import Position
from airflow_stepop.hooks.modal.private import LogEntry


def piece(at_s: float, text: str, stream: int = 1) -> LogEntry:
    return LogEntry("sb-1", "ta-1", int(at_s * 1e9), stream, text)


def read(position: Position, *pieces: LogEntry, is_whole: bool = False) -> tuple[list[str], Position]:
    """Return the new texts, and the position after it went through JSON."""
    lines, after = position.after(pieces, is_whole=is_whole)
    return [text for _, text in lines], Position.parse(json.loads(json.dumps(str(after))))


def test_a_piece_may_be_a_part_of_a_line_or_several_lines() -> None:
    pieces = [piece(1, "one\ntw"), piece(2, "o\n"), piece(3, "three\nfour\n")]
    assert read(Position(), *pieces)[0] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_line_may_come_in_two_reads(cut: int) -> None:
    text = "a line\n"
    first, second = piece(1, text[:cut]), piece(2, text[cut:])
    early, position = read(Position(), first)
    assert early == []
    assert read(position, first, second)[0] == ["a line"]


def test_the_streams_do_not_mix() -> None:
    pieces = [piece(1, "out "), piece(2, "err ", 2), piece(3, "put\n"), piece(4, "or\n", 2)]
    assert read(Position(), *pieces)[0] == ["out put", "err or"]


def test_what_was_read_does_not_come_again() -> None:
    pieces = [piece(1, "a\n"), piece(1, "a\n"), piece(1, "b\n")]
    texts, position = read(Position(), *pieces)
    assert texts == ["a", "a", "b"]
    assert read(position, *pieces)[0] == []


def test_a_late_piece_comes_late_and_once() -> None:
    early, late, last = piece(1, "early\n"), piece(2, "late\n"), piece(3, "last\n")
    _, position = read(Position(), early, last)
    texts, position = read(position, early, late, last)
    assert texts == ["late"]
    assert read(position, early, late, last)[0] == []


def test_a_line_without_an_end_comes_when_the_log_is_whole() -> None:
    texts, position = read(Position(), piece(1, "no end"))
    assert texts == []
    texts, position = read(position, is_whole=True)
    assert texts == ["no end"]
    assert read(position, is_whole=True)[0] == []


def test_a_line_that_never_ends_is_cut() -> None:
    """Else it would grow in the cursor, which lies in Airflow's database."""
    position, seen = Position(), 0
    for at in range(12):
        texts, position = read(position, piece(at, "x" * 50_000))
        seen += sum(map(len, texts))
        assert len(str(position)) < 80_000
    assert seen >= 600_000 - 80_000


def test_lines_of_the_service_say_so() -> None:
    assert read(Position(), piece(1, "Image is being pulled\n", 3))[0] == ["[modal] Image is being pulled"]


def test_a_position_behind_the_receipt_says_so() -> None:
    """Whoever has it needs not wait for the receipt. A position of an earlier version does not say it."""
    texts, position = read(replace(Position(), has_receipt=True), piece(1, "a\n"))
    assert texts == ["a"]
    assert position.has_receipt
    assert not Position.parse(json.dumps(json.loads(str(position))[:2])).has_receipt
