"""What the commands print is safe on a terminal, whoever has written it."""

from __future__ import annotations

import json

import pytest

from airflow_stepop.cli.output import print_rows

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\rc\u202ed\ne"


@pytest.mark.parametrize("output", ["table", "plain"])
def test_a_cell_has_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str], output: str) -> None:
    """A label, the text of an error, or what a service says may come from anybody."""
    print_rows([{"task": HOSTILE, "labels": {"dag_id": HOSTILE}, "names": [HOSTILE]}], output)
    text = capsys.readouterr().out
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(text)
    assert text.count("ab␍c�d e") == 3


def test_programs_get_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"task": HOSTILE}], "json")
    text = capsys.readouterr().out
    assert json.loads(text) == [{"task": HOSTILE}]
    assert text.isascii()
