"""An outcome that comes back as lines of a log."""

from __future__ import annotations

import os
import random

import pytest

from airflow_stepop.runner.frames import from_lines, hidden, to_lines
from airflow_stepop.runner.protocol import FRAME_PREFIX

KEY = bytes(range(32))


@pytest.mark.parametrize("size", [1, 100, 2880, 2881, 131072])
def test_there_and_back(size):
    data = random.Random(size).randbytes(size)
    lines = to_lines(data, KEY)
    assert from_lines(["before", *lines, "after"], KEY) == data
    assert all(len(line) + 1 <= 4096 for line in lines), "a pipe takes each at once"


def test_nobody_can_read_them():
    data = b"a secret result " * 1000
    text = "\n".join(to_lines(data, KEY))
    assert "secret" not in text
    assert hidden(hidden(data, KEY), KEY) == data
    assert from_lines(to_lines(data, KEY), os.urandom(32)) != data


def test_lines_of_the_step_may_stand_between_and_before_them():
    first, second = to_lines(b"x" * 5000, KEY)
    assert from_lines([f"no end of line{first}", "a child prints on", second], KEY) == b"x" * 5000


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_piece_that_is_missing_is_missed(lost):
    lines = to_lines(b"x" * 8000, KEY)
    assert from_lines(lines[:lost] + lines[lost + 1 :], KEY) is None


@pytest.mark.parametrize(
    "text", ["", "1", "1/1", "1/1 é", "1/1 !", "x/y z", "1/999999999999 eA==", "2/2 eA=="]
)
def test_what_only_looks_like_it_is_none(text):
    assert from_lines([f"{FRAME_PREFIX}{text}"], KEY) in (None, b"")


def test_the_last_whole_outcome_counts():
    """A step may print such lines itself; the digest tells them apart."""
    assert from_lines([*to_lines(b"old", KEY), *to_lines(b"new", KEY)], KEY) == b"new"
    assert from_lines(["nothing"], KEY) is None
    assert to_lines(b"x", KEY)[0].startswith(f"{FRAME_PREFIX}1/1 ")
