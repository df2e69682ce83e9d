"""The table of threats in ``docs/security.md``: each row names tests that exist, or says "not protected"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT

PAGE = (DOCS / "security.md").read_text()
HEADING = "What is tested"
HEAD = ["threat", "what protects", "test"]
NOT_PROTECTED = "**not protected**"
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def section(heading: str) -> str:
    assert f"\n## {heading}\n" in PAGE
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of all tables, with the first row of each."""
    for line in text.splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s-]+", line):
            yield [cell.strip() for cell in line.strip().strip("|").split(" | ")]


THREATS = [row for row in rows(section(HEADING)) if row != HEAD]


@cache
def functions(file: Path) -> set[str]:
    """Return the names of all test functions and test methods of a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_threats() -> None:
    """Each table has the same columns."""
    assert len(THREATS) > 30
    assert all(len(row) == len(HEAD) for row in THREATS), [row for row in THREATS if len(row) != len(HEAD)]
    names = [row[0] for row in THREATS]
    assert len(names) == len(set(names))
    tables = section(HEADING).split("\n### ")[1:]
    assert all(next(rows(table)) == HEAD for table in tables)


@pytest.mark.parametrize("row", THREATS, ids=lambda row: str(row[0])[:60])
def test_every_threat_has_a_test(row: list[str]) -> None:
    """The tests are named with their files, below ``tests/`` or in ``airflow_stepop/testing``."""
    _, protects, test = row
    if NOT_PROTECTED in protects:
        assert test == ""
        return
    found = TEST.findall(test)
    assert found, f"name a test of {row[0]!r}, or write {NOT_PROTECTED}"
    assert re.sub(TEST, "", test).strip(", ") == ""
    for name, function in found:
        file = next((path for path in (ROOT / "tests" / name, ROOT / name) if path.is_file()), None)
        assert file is not None, name
        assert function.startswith("test_")
        assert function in functions(file), f"{name} has no {function}"


@pytest.mark.parametrize("argument", ["backend", "conn_id", "store"])
def test_the_trust_table_has_the_trigger_s_choices(argument: str) -> None:
    """And the choices are template fields, so the row is needed."""
    from airflow_stepop import RemoteStepOperator

    (row,) = [row for row in rows(section("Who is trusted")) if row[0].startswith("whoever may trigger")]
    assert argument in RemoteStepOperator.template_fields
    assert f"`{argument}`" in row[1]
