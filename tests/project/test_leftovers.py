"""A test that leaves something open fails itself, instead of a later test during which Python reports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

SUITE = """
import socket
import subprocess
import pytest

class Forgotten:
    def __init__(self, what):
        self.what, self.itself = what, self  # nothing but a collection finds it

@pytest.fixture(scope="module")
def left_by_a_fixture():
    held = [Forgotten(socket.socket())]
    yield
    held.clear()

def test_before(left_by_a_fixture): ...
def test_process(): Forgotten(subprocess.Popen(["true"]))
def test_between(): ...
def test_socket(): Forgotten(socket.socket())
def test_last(): ...
"""


def test_the_test_that_leaves_something_open_fails(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(SUITE)
    (tmp_path / "test_two.py").write_text("def test_of_another_module(): ...")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.leftovers",
        "-W",
        "error",
        "-rA",
        str(tmp_path),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    lines = done.stdout.partition("short test summary info")[2].splitlines()
    errors = [line.partition(" - ")[0].partition("::")[2] for line in lines if line.startswith("ERROR")]
    assert errors == ["test_process", "test_socket", "test_last"], done.stdout
    assert "6 passed, 3 errors" in done.stdout
