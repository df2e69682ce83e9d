"""Input folders of steps, and every Python of this machine that can run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pythons import find_pythons
from tests.support.step_folder import StepFolder

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
    """Return a function that creates another input folder."""
    made: list[StepFolder] = []

    def make() -> StepFolder:
        made.append(StepFolder(tmp_path / f"step-{len(made)}"))
        return made[-1]

    return make
