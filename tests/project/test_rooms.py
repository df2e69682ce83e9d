"""Which modules may import which: dependencies point downwards, and there is no import circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "airflow_stepop"
NAME = "airflow_stepop"
DOOR = (
    NAME,
)  # `airflow_stepop/__init__.py` lists public names and loads them late; its version is no import

# From the bottom up: a module imports only from its own layer and those below. A room is a folder, or one
# module of the root; `hooks.common` is a room of its own.
LAYERS = [
    {"runner"},  # runs on another machine: the standard library only
    {"core", "exceptions"},
    {"failure", "job", "resources"},
    {"connections"},
    {"stores"},
    {"results", "record"},
    {"payload"},
    {"hooks.base", "hooks.settings", "hooks.common"},
    {"hooks.local", "hooks.kubernetes", "hooks.sagemaker", "hooks.modal"},
    {"registry"},
    {"waiting"},
    {"triggers"},
    {"arguments", "oom", "retries"},
    {"signatures"},
    {"lifecycle"},
    {"links"},
    {"operators"},
    {"decorators", "inventory"},
    {"maintenance", "testing"},
    {"cli"},
    {"plugin", "provider_info"},
]
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
BACKENDS = sorted(
    room for room in HEIGHT if room.startswith("hooks.") and HEIGHT[room] == HEIGHT["hooks.local"]
)


def modules() -> dict[str, Path]:
    """Return module -> file of the whole package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(module: str, path: Path) -> Iterator[str]:
    """Yield this package's modules that a file imports anywhere, also for type checkers only."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            for alias in node.names:
                named = f"{base}.{alias.name}"
                if named in MODULES or base in MODULES:
                    yield named if named in MODULES else base


@pytest.fixture(scope="module")
def graph() -> Mapping[str, set[str]]:
    """Return module -> its imports within this package, without those of ``__init__``, which imports all."""
    return {
        module: {name for name in imported(module, path) if name not in (module, *DOOR)}
        for module, path in MODULES.items()
        if module not in DOOR
    }


def room_of(module: str) -> str:
    """Return the row of ``LAYERS`` that a module belongs to."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "hooks" and len(parts) > 1 else parts[0]


def test_every_room_has_its_layer() -> None:
    rooms = {room_of(module) for module in MODULES if module not in DOOR} - {"hooks"}
    assert rooms == set(HEIGHT)


def test_dependencies_point_down(graph: Mapping[str, set[str]]) -> None:
    upwards = [
        f"{module} imports {name}"
        for module, names in graph.items()
        for name in sorted(names)
        if room_of(module) != "hooks" and HEIGHT[room_of(name)] > HEIGHT[room_of(module)]
    ]
    assert upwards == []


def test_no_backend_knows_another(graph: Mapping[str, set[str]]) -> None:
    known = [
        f"{module} imports {name}"
        for module, names in graph.items()
        for name in names
        if room_of(module) in BACKENDS and room_of(name) in BACKENDS and room_of(module) != room_of(name)
    ]
    assert known == []


def test_there_is_no_import_circle(graph: Mapping[str, set[str]]) -> None:
    """Late imports and imports for type checkers count too, since a reader follows them as well."""
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", ["runner", "hooks/local/supervisor"])
def test_what_runs_beside_the_step_needs_the_standard_library_only(folder: str) -> None:
    """The runner must run in any image, and the supervisor must start in milliseconds."""
    outside = set()
    for path in sorted((PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                outside |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                outside.add(str(node.module).partition(".")[0])
    # packages that a step may use, and psutil where there is no /proc
    known = {NAME, "cloudpickle", "numpy", "pendulum", "pyarrow", "psutil"}
    assert outside - set(sys.stdlib_module_names) <= known
