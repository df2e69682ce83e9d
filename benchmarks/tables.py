"""The tables of the benchmarks, as text while they are measured and as Markdown for the documentation.

Each benchmark yields :class:`Line` or :class:`Table`. ``__main__.py`` prints and writes the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Line:
    """One line of a table.

    :param value: in the unit of its table; ``None`` when it could not be measured
    :param goal: upper limit of ``value``; lower limit in a table with ``is_more_better``
    """

    name: str
    value: float | None
    note: str = ""
    goal: float | None = None


@dataclass(frozen=True)
class Table:
    """Lines with the same unit. All ratios are relative to the first line."""

    title: str
    unit: str
    lines: Iterable[Line]
    is_more_better: bool = False

    def verdict(self, line: Line) -> str:
        """Return ``met`` or ``MISSED``; empty without a goal or a value."""
        if line.goal is None or line.value is None:
            return ""
        is_met = line.value >= line.goal if self.is_more_better else line.value <= line.goal
        return "met" if is_met else "MISSED"

    def goal(self, line: Line) -> str:
        sign = ">=" if self.is_more_better else "<="
        return "" if line.goal is None else f"{sign} {_number(line.goal)}"


def measure(table: Table) -> Table:
    """Measure the lines, print each one with its ratio to the first, and return the table with all lines."""
    print(f"{table.title:58} {table.unit:>9} {'ratio':>7} {'goal':>9}")
    done: list[Line] = []
    for line in table.lines:
        done.append(line)
        note = f"  ({line.note})" if line.note else ""
        print(
            f"  {line.name:56} {_number(line.value):>9} {_ratio(line, done[0]):>7} {table.goal(line):>9} "
            f"{table.verdict(line)}{note}"
        )
        sys.stdout.flush()
    print()
    return replace(table, lines=done)


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown for the documentation."""
    parts = []
    for table in tables:
        lines = list(table.lines)
        rows = [
            f"| {line.name} | {_number(line.value)} | {_ratio(line, lines[0])} | "
            f"{' '.join(filter(None, [table.goal(line), table.verdict(line)]))} | {line.note} |"
            for line in lines
        ]
        head = f"## {table.title}\n\n| | {table.unit} | ratio | goal | |\n|---|---:|---:|---|---|"
        parts.append("\n".join([head, *rows]))
    return "\n\n".join(parts) + "\n"


def _number(value: float | None) -> str:
    return (
        "-"
        if value is None
        else (f"{value:.0f}" if value >= 1000 else f"{value:.2f}" if value < 10 else f"{value:.1f}")
    )


def _ratio(line: Line, first: Line) -> str:
    return f"{line.value / first.value:.2f}" if line.value is not None and first.value else "-"
