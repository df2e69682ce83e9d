"""What the commands print is safe on a terminal, whoever has written it."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from airflow_stepop.cli import check
from airflow_stepop.cli.output import command, complain, print_rows
from airflow_stepop.exceptions import StoreError

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\rc\u202ed\ne"


@pytest.mark.parametrize("output", ["table", "plain"])
def test_a_cell_has_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str], output: str) -> None:
    """A label, the text of an error, or what a service says may come from anybody."""
    print_rows([{"task": HOSTILE, "labels": {"dag_id": HOSTILE}, "names": [HOSTILE]}], output)
    text = capsys.readouterr().out
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(text)
    assert text.count("ab␍c�d e") == 3


def test_an_error_has_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Its text may come from a service, from a record that somebody has edited, or from a folder."""

    @command
    def failing(args: Namespace) -> None:
        complain([f"this is left out: {HOSTILE}"])
        raise StoreError(HOSTILE)

    with pytest.raises(SystemExit) as ended:
        failing(Namespace(verbose=False))
    for text in (capsys.readouterr().err, str(ended.value)):
        assert "ab␍c�d\ne" in text
        assert not {"\x1b", "\r", "\x07", "\u202e"} & set(text)


def test_a_finding_of_several_lines_has_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"where": HOSTILE, "what": HOSTILE, "found": HOSTILE, "what_to_do": f"{HOSTILE}\nand more"}
    check._print([row], "table")
    text = capsys.readouterr().out
    assert text.count("ab␍c�d\ne") == 6
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(text)


def test_programs_get_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"task": HOSTILE}], "json")
    text = capsys.readouterr().out
    assert json.loads(text) == [{"task": HOSTILE}]
    assert text.isascii()
