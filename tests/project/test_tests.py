"""Rules for the tests themselves, as far as the sources show whether they are kept."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.paths import ROOT

TESTS = ROOT / "tests"


def imports(path: Path) -> set[str]:
    """Return the modules of ``tests`` that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("tests.")}


def test_no_file_imports_a_test_module_or_a_conftest() -> None:
    """Shared code lives in tests/support or in a module of its own beside the tests."""
    modules = {path: imports(path) for path in [*TESTS.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]}
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, names in modules.items()
        for name in names
        if any(part == "conftest" or part.startswith("test_") for part in name.split(".")[:-1])
        or name.endswith(".conftest")
    }
    assert wrong == set()


def test_every_test_waits_with_the_shared_helper() -> None:
    """A time limit of a test's own would depend on the speed of one machine."""
    allowed = {"support/waiting.py", "project/test_tests.py"}
    named = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and any(isinstance(one, ast.Name) and "PATIENCE" in one.id for one in node.targets)
    }
    assert named <= allowed
