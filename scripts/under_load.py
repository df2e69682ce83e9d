"""Run tests repeatedly while busy loops take the processor, and append one line for each run to a log.

    make under-load ARGS='--phase unit --times 2'              a phase of make test, twice
    make under-load ARGS='--test tests/unit/test_a.py::test_b' one test, twenty times
    make under-load ARGS='--times 3 -- make fuzz'              any command of make or pytest

An interrupted run leaves no line. If the program is called again with the same log and command, it makes the
missing runs only. The exit code is 1 if one of all these runs has failed. Each line of the log is a JSON
object: time, command, exit code, seconds, and the failed tests.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tests.support import journal

PHASES = ["unit", "deployed", "crashes", "faults"]
# A loop ends when the program that started it ends, even after a kill -9
LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(100_000))
"""
END_S = 60
PYTHON = "python"  # stands in the log for the Python of this program, which runs the tests
# The make that runs this program sets these variables. The make that this program runs must not get them
OF_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARGS", "JOURNAL", "PHASES")


@dataclass
class Run:
    """One line of the log."""

    time: str
    command: list[str]
    exit_code: int
    seconds: float
    failed: list[str]

    def summary(self) -> str:
        """Return the run as a line for people."""
        failed = f"; failed: {' '.join(self.failed)}" if self.failed else ""
        return f"exit code {self.exit_code} after {self.seconds:.0f} s{failed}"


class Log:
    """The log of all runs, which outlives this program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self, command: list[str]) -> list[Run]:
        """Return the completed runs of a command, from this call and from earlier calls."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [run for line in lines if line and (run := Run(**json.loads(line))).command == command]

    def add(self, run: Run) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Make the missing runs, and return the exit code of the program."""
    options = parsed(arguments)
    command, times = command_of(options), options.times or (20 if options.test else 1)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    log = Log(options.log)
    while (count := len(log.runs(command)) + 1) <= times:
        print(
            f"==> run {count} of {times} beside {options.loops} busy loops: {' '.join(command)}", flush=True
        )
        with busy_loops(options.loops):
            run = run_once(command)
        log.add(run)
        print(f"==> run {count} of {times}: {run.summary()}", flush=True)
    runs = log.runs(command)
    failed = [run for run in runs if run.exit_code]
    print(f"==> {len(failed)} of {len(runs)} runs failed; {options.log} has all of them")
    return 1 if failed else 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="under_load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--phase", choices=PHASES, help="a phase of make test")
    what.add_argument("--test", metavar="ID", help="the id of a test, which runs alone")
    parser.add_argument("--times", type=int, help="total number of runs (with --test 20, else 1)")
    parser.add_argument("--loops", type=int, default=2, help="number of busy loops (2)")
    parser.add_argument("--log", type=Path, default=Path("under-load.log"), help="the log (under-load.log)")
    parser.add_argument("command", nargs="*", help="after --: a command of make or pytest")
    options = parser.parse_args(arguments)
    if bool(options.command) == bool(options.phase or options.test):
        parser.error("needs --phase, --test, or a command after --")
    return options


def command_of(options: argparse.Namespace) -> list[str]:
    if options.phase:
        return ["make", "test", f"PHASES={options.phase}"]
    if options.test:
        return [PYTHON, "-m", "pytest", options.test]
    return list(options.command)


def end(number: int, frame: FrameType | None) -> None:
    """Handle a signal: raise ``SystemExit``, so that ``finally`` blocks stop the test run and the loops."""
    raise SystemExit(128 + number)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run ``count`` busy loops for the duration of the ``with`` block."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP, str(os.getpid())]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_once(command: list[str]) -> Run:
    """Run the command to its end. If the command can write a journal, take the failed tests from it."""
    env = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    begin = time.monotonic()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="stepop-under-load-") as folder:
        path = Path(folder) / "journal"
        program = sys.executable if command[0] == PYTHON else command[0]
        words = [program, *command[1:], *journalled(command, path)]
        process = subprocess.Popen(words, env=env, start_new_session=True)
        try:
            code = process.wait()
        finally:
            stop(process)
        sessions = journal.read(path).sessions
    failed = [name for session in sessions for name in (*session.uncollected, *session.failures)]
    return Run(at, command, code, round(time.monotonic() - begin, 1), failed)


def journalled(command: list[str], path: Path) -> list[str]:
    """Return the argument that makes a command write a journal; nothing for other commands."""
    if Path(command[0]).name == "make":
        return [f"JOURNAL={path}"]
    is_pytest = any(Path(word).name == "pytest" for word in command[:3])
    return [f"--journal={path}"] if is_pytest else []


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command that still runs, with all its processes, so that fixtures can clean up.

    Kill it if it has not ended after ``END_S``.
    """
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
