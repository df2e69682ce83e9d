"""Whatever a step prints can be shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.core.printable import LINE_LIMIT, printable, printable_text
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.results import StepResult


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain text", "plain text"),
        ("", ""),
        ("\tcolumns\there", "\tcolumns\there"),
        ("Grüße, 世界 😀 \xa0", "Grüße, 世界 😀 \xa0"),
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[38;5;208morange\x1b[m", "\x1b[38;5;208morange\x1b[m"),
        ("\x1b[2K\x1b[1A\x1b[?25lbar\x1b[K", "bar"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPpicture\x1b\\text", "text"),
        ("\x1bc\x1b(Btext\x1b", "text"),
        ("cut off \x1b[3", "cut off 3"),
        ("a\x00b\x07c\x7fd", "a␀b␇c␡d"),
        ("d\x85e\u2028f\ud800g", "d�e�f�g"),
        ("\r 10%\r 50%\r100%", "100%"),
        ("100%\r", "100%"),
        ("\r\r", ""),
        ("1/9\b\b\b2/9", "2/9"),
        ("\b\bx", "x"),
        ("two\nlines\x0b\x0c", "two␊lines␋␌"),
        ("\u202eback\u202c\u2066there\u2069", "\ufffdback\ufffd\ufffdthere\ufffd"),
        ("שלום\u200f 12", "שלום\u200f 12"),
    ],
)
def test_a_line_is_harmless(printed: str, shown: str) -> None:
    assert printable(printed) == shown


def test_a_long_line_is_cut_and_says_so() -> None:
    text = printable("x" * 10_000_000)
    assert text == "x" * LINE_LIMIT + " [stepop: 9980000 more characters of this line are left out]"
    assert printable("x" * LINE_LIMIT) == "x" * LINE_LIMIT


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("two\n\tlines", "two\n\tlines"),
        ("of\r\nWindows", "of\nWindows"),
        ("hidden\rshown", "hidden␍shown"),
        ("\x1b[31mred\x1b[0m\x1b[2J\x1b", "red"),
        ("a\x00b\u202ec\ud800d", "a␀b\ufffdc\ufffdd"),
        ("x\n::endgroup::\n::group::mine", "x\n[endgroup] \n[group] mine"),
    ],
)
def test_a_text_of_several_lines_is_harmless(printed: str, shown: str) -> None:
    assert printable_text(printed) == shown


@given(st.text(st.characters(codec=None) | st.sampled_from("\x1b[]m\r\b0;\x07"), max_size=200))
def test_anything_is_one_line_of_text(printed: str) -> None:
    """For a file, for JSON, for a database, and for whoever splits lines in another way than we do."""
    shown = printable(printed)
    assert len(shown.splitlines()) <= 1
    assert json.loads(json.dumps(shown)) == shown
    assert shown.encode().decode() == shown
    assert not {chr(code) for code in range(32)} - {"\t", "\x1b"} & set(shown)
    assert printable(shown) == shown


def test_the_message_of_a_failure_is_harmless() -> None:
    """Its parts come from the step, and it goes to logs, callbacks and mails."""
    failure = Failure(
        Category.USER_ERROR,
        "raised\x00",
        log_tail=("\x1b[2Jclear\r", "a\x00b"),
        exception={"traceback": ["File x\n    line\x1b]0;t\x07\n"]},
    )
    message = failure.describe()
    assert "\x00" not in message
    assert message.splitlines() == message.split("\n")
    assert "    clear" in message
    assert "    line" in message


def test_the_message_of_an_error_is_harmless() -> None:
    """Whoever writes an XCom chooses texts that come back in the errors of the tasks that read it."""
    place = "s3://a\x1b]0;title\x07\x1b[2J/b\rc\u202ed\n::endgroup::"
    entry: Any = {"codec": "pickle", "segments": [{"sha256": "0", "size": 1, "name": "a"}]}
    with pytest.raises(IntegrityError) as refused:
        StepResult(entry, place, step=place).load()
    text = str(refused.value)
    assert "s3://a/b␍c�d\n[endgroup]" in text
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(text)
