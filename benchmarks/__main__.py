"""``make bench``: print the tables. Nothing here fails because of a number."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.cases import Line, byte_lines, import_lines, step_lines


def main() -> None:
    python = f"Python {platform.python_version()} on {platform.machine()}"
    print(f"{python}; CPU time, medians of 7 fresh processes\n")
    print_table("Import in a DAG file", "ms", import_lines())
    with tempfile.TemporaryDirectory() as folder:
        print_table("A no-op step", "ms", step_lines(Path(folder)))
    print_table("Bytes shipped", "kB", byte_lines())


def print_table(title: str, unit: str, lines: Iterable[Line]) -> None:
    """Print the lines as they are measured, each with its ratio to the first one."""
    print(f"{title:52} {unit:>9} {'ratio':>7} {'goal':>8}")
    first = None
    for line in lines:
        value = "-" if line.value is None else f"{line.value:.1f}"
        first = first if first is not None else line.value
        ratio = f"{line.value / first:.2f}" if line.value is not None and first else "-"
        goal = "" if line.goal is None else f"<= {line.goal:g}"
        mark = (
            ""
            if line.goal is None or line.value is None
            else (" met" if line.value <= line.goal else " MISSED")
        )
        print(
            f"  {line.name:50} {value:>9} {ratio:>7} {goal:>8}{mark}{f'  ({line.note})' if line.note else ''}"
        )
        sys.stdout.flush()
    print()


if __name__ == "__main__":
    main()
