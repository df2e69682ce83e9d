#!/usr/bin/env python3
"""Print figures about the package's structure: ``python scripts/structure.py [CHECKOUT]``.

The figures: the number of modules in the root, the long files, how often the code uses ``Any``, the cost of
importing the decorator in a DAG file, and the size of the smallest runner. No figure fails a build.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
PACKAGE = ROOT / "airflow_stepop"
LONG_LINES = 400
TYPED_ROOMS = ("core", "stores", "payload", "lifecycle", "hooks")
IMPORT_RUNS = 7

IMPORTS = """
import time
from airflow.sdk import DAG, BaseOperator, dag, task
begin = time.process_time()
from airflow_stepop import RemoteStepOperator, ResourceSettings
task.remote_step
print((time.process_time() - begin) * 1000)
"""


def lines_of(*paths: Path) -> int:
    return sum(path.read_text().count("\n") for path in paths)


def below(*rooms: str) -> list[Path]:
    """Return the Python files of some rooms (folders of the package); without rooms, of the package."""
    folders = [PACKAGE / room for room in rooms] if rooms else [PACKAGE]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def count_any(path: Path) -> int:
    """Return how often a file uses the name ``Any``. The import does not count."""
    return sum(
        isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(path.read_text()))
    )


def any_per_thousand(paths: list[Path]) -> float:
    return 1000 * sum(map(count_any, paths)) / max(lines_of(*paths), 1)


def import_cost_ms() -> float:
    """Return the median time of the import in a DAG file that has already imported ``airflow.sdk``.

    The modules are compiled already, as in an installed Airflow.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTS]
    times = []
    for _ in range(1 + IMPORT_RUNS):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
        times.append(float(done.stdout.split()[-1]))
    return statistics.median(times[1:])  # the first run compiles


def smallest_runner_bytes() -> int:
    """Return the size of the zipapp of the smallest step, which is a command."""
    program = "from {} import runner_zipapp; print(len(runner_zipapp(frozenset(['command']))))"
    new = (PACKAGE / "hooks" / "common" / "zipapp.py").exists()
    module = "airflow_stepop.hooks.common.zipapp" if new else "airflow_stepop.zipapp"
    done = subprocess.run(
        [sys.executable, "-c", program.format(module)], capture_output=True, text=True, cwd=ROOT
    )
    return int(done.stdout.split()[-1])


def figures() -> Iterator[tuple[str, object]]:
    """Yield the name and the value of each figure."""
    root = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    yield "modules in the root", len(root)
    long = sorted(((lines_of(path), path) for path in below() if lines_of(path) > LONG_LINES), reverse=True)
    shown = ", ".join(f"{path.relative_to(PACKAGE)} {count}" for count, path in long)
    yield f"files over {LONG_LINES} lines", f"{len(long)} ({shown})" if long else 0
    for room in ("local", "kubernetes", "common"):
        named = [PACKAGE / room, PACKAGE / "hooks" / room, PACKAGE / "hooks" / f"{room}.py"]
        files = [path for place in named for path in ([place] if place.is_file() else place.rglob("*.py"))]
        yield f"lines of the {room} hooks", lines_of(*files)
    yield "lines of the package", lines_of(*below())
    rooms = [room for room in TYPED_ROOMS if (PACKAGE / room).is_dir()]
    yield f"Any per 1,000 lines in {' '.join(rooms)}", f"{any_per_thousand(below(*rooms)):.1f}"
    yield "Any per 1,000 lines", f"{any_per_thousand(below()):.1f}"
    yield "import cost of a DAG file over airflow.sdk, ms of CPU", f"{import_cost_ms():.1f}"
    yield "smallest runner, bytes", smallest_runner_bytes()


if __name__ == "__main__":
    for name, figure in figures():
        print(f"{name}: {figure}")
