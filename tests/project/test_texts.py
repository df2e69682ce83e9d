"""Texts that a person reads in a terminal, a log or an error have no markup of reST."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_stepop import registry
from airflow_stepop.cli.backends import describe_settings
from airflow_stepop.core.printable import without_markup
from tests.support.paths import ROOT

SOURCES = sorted((ROOT / "airflow_stepop").rglob("*.py"))
MARKUP = re.compile(r"``|:[a-z]+:`")
NO_TEXT = {("main.py", "``"), ("printable.py", "``")}  # they search for it


def texts(path: Path) -> Iterator[ast.Constant]:
    """Yield every text of a module that is no docstring; of an f-string each part."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # also below an attribute
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_has_markup(path: Path) -> None:
    found = [
        f"{path.name}:{text.lineno}: {text.value[:60]}"
        for text in texts(path)
        if MARKUP.search(text.value) and (path.name, text.value) not in NO_TEXT
    ]
    assert found == []


@pytest.mark.parametrize("name", registry._released())
def test_the_described_settings_have_none(name: str) -> None:
    """They come from the docstring of the model, which has markup."""
    pytest.importorskip(registry.BUILTINS[name].sdk or "sys")
    rows = list(describe_settings(registry.hook_class(name).settings_model))
    assert rows
    assert not MARKUP.search(json.dumps(rows, default=str))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("``Always`` or ``Never``", "Always or Never"),
        ("see :class:`~airflow_stepop.job.JobState`", "see JobState"),
        ("see :meth:`status`, and :func:`a.b`", "see status, and b"),
        ("`one` backtick stays", "`one` backtick stays"),
    ],
)
def test_markup_is_taken_away(text: str, plain: str) -> None:
    assert without_markup(text) == plain
