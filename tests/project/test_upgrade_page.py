"""``docs/upgrade.md``: what it states of stored forms is held by tests that exist."""

from __future__ import annotations

import ast
import json
import re
import zipfile
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT
from tests.support.stored_forms import FORMS, versions

PAGE = (DOCS / "upgrade.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "function"), NAMED)
def test_a_named_test_exists(file: str, function: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| form ")]
    assert len(rows) > 15
    assert all("::test_" in row for row in rows), [row for row in rows if "::test_" not in row]


def test_every_test_of_stored_forms_is_named() -> None:
    """But those that only count the forms, and those of 0.1 alone."""
    found = set()
    for path in (ROOT / "tests" / "unit" / "stored_forms").glob("test_*.py"):
        tree = ast.parse(path.read_text())
        found |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    unnamed = {name for name in found if name.startswith("test_")} - {function for _, function in NAMED}
    assert unnamed == {
        "test_all_records_are_tested",
        "test_a_checkpoint_of_a_deployment_without_a_key_is_refused",
    }


def test_each_version_has_its_section() -> None:
    assert FORMS.is_dir()
    sections = re.findall(r"^### ([\d.]+)$", PAGE, re.MULTILINE)
    assert sections == [one.version for one in reversed(versions())]


def test_the_forms_do_not_depend_on_the_host_that_wrote_them() -> None:
    """No file has its name, a path of its own, or the id of its boot; but for the folders of every host."""
    own = re.compile(rb"/(?:home|root|work)/|/tmp/(?!stepop-|stored-forms/)")
    boot = re.compile(rb'"boot_id": "[0-9a-f]{8}-')
    for path in FORMS.rglob("*"):
        if path.is_file():
            for what, data in _contents(path):
                found = own.search(data) or boot.search(data)
                assert found is None, (path, what, found)


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of a file, with those of an archive's members and of the values that XComs carry."""
    data = path.read_bytes()
    if path.suffix == ".pyz":
        archive = zipfile.ZipFile(path)
        yield from ((name, archive.read(name)) for name in archive.namelist())
    elif path.suffix == ".json":
        yield "", re.sub(rb'"[A-Za-z0-9+/=]{64,}"', b"", data)  # base64 may have any text in it
        for text in re.findall(rb'"reference": "([^"]*)"', data):
            entry, *_ = json.loads(zlib.decompress(b64decode(text)))
            yield from (("value", b64decode(one["data"])) for one in entry["segments"] if "data" in one)
    else:
        yield "", data
