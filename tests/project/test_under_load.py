"""``scripts/under_load.py``: runs of a command beside busy loops, which continue after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.processes import is_alive, printed, wait_gone
from tests.support.waiting import wait_until

# Lists the busy loops, and then hangs or exits with a code
COMMAND = """
import os, sys, time
from pathlib import Path
loops = [path for path in Path("/proc").glob("[0-9]*/stat")
         if path.read_text().rpartition(") ")[2].split()[1] == str(os.getppid())
         and path.parent.name != str(os.getpid())]
with open("pids", "w") as file:
    file.write(" ".join(path.parent.name for path in loops) + f" {os.getpid()}")
os.rename("pids", "begun")
time.sleep(100 if Path("hang").exists() else 0)
sys.exit(3)
"""


class UnderLoad:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.under_load", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ARGS": "of a make around", "MAKEFLAGS": "-n"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = printed(process)
        return process.returncode, output

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "under-load.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self) -> list[int]:
        """Return the processes of the busy loops and of the command."""
        return [int(word) for word in (self.folder / "begun").read_text().split()]


@pytest.fixture
def under_load(tmp_path: Path) -> UnderLoad:
    return UnderLoad(tmp_path)


def test_a_command_runs_beside_two_loops(under_load: UnderLoad) -> None:
    code, output = under_load.run("--times", "2", "--", sys.executable, "-c", COMMAND)
    assert code == 1
    assert "2 of 2 runs failed" in output
    first, second = under_load.log()
    assert first["command"] == second["command"] == [sys.executable, "-c", COMMAND]
    assert first["exit_code"] == 3
    assert first["failed"] == []
    assert len(under_load.pids()) == 3
    assert not any(is_alive(pid) for pid in under_load.pids())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_series_of_runs_continues(under_load: UnderLoad, number: signal.Signals) -> None:
    command = ["--times", "2", "--", sys.executable, "-c", COMMAND]
    under_load.run("--times", "1", *command[2:])
    (under_load.folder / "begun").unlink()
    (under_load.folder / "hang").touch()
    process = under_load.start(*command)
    wait_until((under_load.folder / "begun").exists, "the command to begin")
    process.send_signal(number)
    if number == signal.SIGKILL:
        *loops, last = under_load.pids()
        wait_gone(loops, "the busy loops")
        os.kill(last, signal.SIGKILL)
    printed(process)
    wait_gone(under_load.pids(), "the busy loops and the command")
    assert len(under_load.log()) == 1
    (under_load.folder / "hang").unlink()
    output = under_load.run(*command)[1]
    assert "run 2 of 2" in output
    assert "run 1 of 2" not in output
    assert len(under_load.log()) == 2


def test_one_test_runs_twenty_times_and_the_log_names_what_fails(under_load: UnderLoad) -> None:
    folder = under_load.folder
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.support.journal_plugin"]')
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_a.py").write_text("def test_bad(): assert 0\ndef test_good(): pass\n")
    code, _ = under_load.run("--test", "test_a.py::test_bad", "--times", "1", "--loops", "0")
    assert code == 1
    assert [run["failed"] for run in under_load.log()] == [["test_a.py::test_bad"]]
    process = under_load.start("--test", "test_a.py::test_good", "--loops", "0")
    wait_until(lambda: len(under_load.log()) == 2, "the first of twenty runs")
    process.terminate()
    assert "==> run 1 of 20: exit code 0" in printed(process)[0]


def test_a_phase_is_one_of_make_test(under_load: UnderLoad) -> None:
    makefile = (
        'test:\n\t@echo "$(PHASES) $(ARGS)"; echo \'{"failed": "a", "line": "", "cause": ""}\' > $(JOURNAL)\n'
    )
    (under_load.folder / "Makefile").write_text(makefile)
    code, output = under_load.run("--phase", "deployed")
    assert code == 0
    assert "\ndeployed \n" in output
    assert under_load.log()[0]["failed"] == ["a"]
    assert "==> 0 of 1 runs failed" in under_load.run("--phase", "deployed")[1]
    assert len(under_load.log()) == 1
