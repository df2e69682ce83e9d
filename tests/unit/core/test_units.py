"""Sizes for people: three significant digits, and never an exponent."""

from __future__ import annotations

import pytest

from airflow_stepop.core.units import shown_size

GIB = 2**30


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (999.7 * 1024, "0.976 MiB"),
        (1.21 * GIB, "1.21 GiB"),
        (999 * GIB, "999 GiB"),
        (1500 * GIB, "1.46 TiB"),
        (9999 * GIB, "9.76 TiB"),
        (2**60, "1,024 PiB"),
        (2**70, "1,048,576 PiB"),
    ],
)
def test_a_size_is_readable(count: float, text: str) -> None:
    assert shown_size(count) == text
