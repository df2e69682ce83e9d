"""Sizes for people: three significant digits, and never an exponent."""

from __future__ import annotations

import pytest

from airflow_stepop.core.units import parse_size, shown_room, shown_size

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


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (2**40, "1 TiB"),
        (16 * GIB, "16 GiB"),
        (16814000000, "15.6 GiB"),  # shown_size rounds it up to 15.7 GiB
        (2**40 - 1, "0.995 TiB"),
    ],
)
def test_room_is_never_rounded_up(count: int, text: str) -> None:
    assert shown_room(count) == text
    assert count == 0 or parse_size(text) <= count
