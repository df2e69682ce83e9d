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


HOME_SUITE = """
import os
import subprocess
import sys

COMMAND = [sys.executable, "-c", "import airflow.settings"]

def test_with_a_home(tmp_path):
    subprocess.run(COMMAND, env={**os.environ, "AIRFLOW_HOME": str(tmp_path)}, check=True)

def test_without():
    env = {name: value for name, value in os.environ.items() if name != "AIRFLOW_HOME"}
    subprocess.run(COMMAND, env=env, check=True)
"""


def run_suite(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    options = ["-p", "tests.support.leftovers", "-W", "error", "-rA"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = done.stdout.partition("short test summary info")[2].splitlines()
    return [line.partition(" - ")[0].partition("::")[2] for line in lines if line.startswith("ERROR")]


def test_the_test_that_leaves_something_open_fails(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(SUITE)
    (tmp_path / "test_two.py").write_text("def test_of_another_module(): ...")
    done = run_suite(tmp_path)
    assert errors(done) == ["test_process", "test_socket", "test_last"], done.stdout
    assert "6 passed, 3 errors" in done.stdout


def test_the_module_that_creates_airflow_s_home_of_the_user_fails(tmp_path: Path) -> None:
    """Airflow creates ``~/airflow`` when it is imported without ``AIRFLOW_HOME``."""
    suite, home = tmp_path / "suite", tmp_path / "home"
    suite.mkdir()
    home.mkdir()
    (suite / "test_one.py").write_text(HOME_SUITE)
    (suite / "test_two.py").write_text("def test_of_another_module(): ...")
    done = run_suite(suite, HOME=str(home))
    assert errors(done) == ["test_without"], done.stdout
    assert f"{home}/airflow was created" in done.stdout
