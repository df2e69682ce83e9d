"""The level of a line in the step's output."""

from __future__ import annotations

import pytest

from airflow_stepop.job import LogLine
from airflow_stepop.runner.protocol import LEVEL_MARK as MARK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("", "info")]),
        ("WARNING:root: printed", [("WARNING:root: printed", "info")]),
        (f"{MARK}DEBUG:a.b: x", [("DEBUG:a.b: x", "debug")]),
        (f"{MARK}WARNING:root: ", [("WARNING:root: ", "warning")]),
        (f"{MARK}CRITICAL:a:b: c", [("CRITICAL:a:b: c", "critical")]),
        (f"10%\r20%{MARK}ERROR:root: x", [("10%\r20%", "info"), ("ERROR:root: x", "error")]),
        (f"{MARK}LOUD:root: x", [(f"{MARK}LOUD:root: x", "info")]),
        (f"{MARK}ERROR", [("ERROR", "error")]),
        (f"a{MARK}b", [(f"a{MARK}b", "info")]),
        (f"a{MARK}b{MARK}INFO:x: y", [(f"a{MARK}b{MARK}INFO:x: y", "info")]),
    ],
)
def test_printed(text, expected):
    """Only a mark and the name of a level together give a level; a line is never lost."""
    assert LogLine.printed(1.5, text) == [LogLine(1.5, *line) for line in expected]
