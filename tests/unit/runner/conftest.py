"""Input folders, and every Python that runs them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.step_folder import StepFolder


def find_pythons() -> dict[str, str]:
    """Return the newest CPython of every minor version from 3.8 on, of pyenv or of the PATH."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {}
    for path in sorted(root.glob("versions/3.*/bin/python")):
        minor = ".".join(path.parts[-3].split(".")[:2])
        if minor.split(".")[1].isdigit() and int(minor.split(".")[1]) >= 8:
            found[minor] = str(path)
    for number in range(8, 20):
        path_of = shutil.which(f"python3.{number}")
        if path_of:
            found.setdefault(f"3.{number}", path_of)
    found[f"3.{sys.version_info[1]}"] = sys.executable
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


PYTHONS = find_pythons()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_python" in metafunc.fixturenames:
        metafunc.parametrize("any_python", PYTHONS.values(), ids=PYTHONS.keys())
    if "edge_python" in metafunc.fixturenames:
        edges = [min(PYTHONS, key=_number), max(PYTHONS, key=_number)]
        metafunc.parametrize("edge_python", [PYTHONS[minor] for minor in edges], ids=edges)


def _number(minor: str) -> int:
    return int(minor.split(".")[1])


@pytest.fixture
def folder(tmp_path: Path) -> StepFolder:
    return StepFolder(tmp_path / "step")


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], StepFolder]:
    """Return a maker of further input folders."""
    made: list[StepFolder] = []

    def make() -> StepFolder:
        made.append(StepFolder(tmp_path / f"step-{len(made)}"))
        return made[-1]

    return make
