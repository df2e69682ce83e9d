"""Run all checks that a commit must pass. ``.ci/run`` calls this program after it has made the environment.

Lint and types come first, because they take the least time. Each check runs, even if an earlier one has
failed. Failed tests run once more: see ``scripts/once_more.py``. The last lines of the run name the flaky
tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scripts.once_more import Verdict, both_runs
from tests.support import journal

FIRST = ["lint", "types"]
# Lanes run in parallel, because they share neither an environment nor a server that they stop. The tests run
# last and alone, because a real Airflow becomes slow next to programs that take the processor.
LANES = [["bench-short"], ["docs", "demo", "extras"]]
# The phases of `make test`. Those of a group run in parallel: they wait most of the time, for processes that
# die or begin. The phase "faults" stops parts of the cluster that "deployed" uses.
PHASE_GROUPS = [["unit"], ["deployed", "crashes"], ["faults"]]
SECOND_RUN_S = 15 * 60
END_S = 120
# .ci/servers prints shell exports for the clients of the servers
SERVERS = 'set -e; exports=$(.ci/servers); eval "$exports"; exec env -0'

printing = threading.Lock()


class NoServersError(Exception):
    """The servers of the tests did not start. Their output gives the reason."""


def main() -> int:
    """Run all checks, and return the exit code of the program."""
    begin = time.monotonic()
    failed = [target for target in FIRST if make(target, dict(os.environ))]
    try:
        env = fresh_servers()
    except NoServersError as error:
        say(f"=== failed: {error}")
        return 1
    with ThreadPoolExecutor(len(LANES)) as pool:
        for found in pool.map(lambda targets: run_lane(targets, env), LANES):
            failed += found
    tests = Tests(env)
    with tempfile.TemporaryDirectory(prefix="stepop-ci-") as folder:
        verdict = both_runs(tests.run, tests.run_again, Path(folder))
    if verdict.red:
        failed.append("test")
    report(verdict, failed, time.monotonic() - begin)
    return 1 if failed else 0


def say(text: str, output: IO[bytes] | None = None) -> None:
    """Write a line and flush, so that it keeps its order with the output of child processes."""
    stream = output or sys.stdout.buffer
    stream.write(f"{text}\n".encode())
    stream.flush()


def make(target: str, env: dict[str, str], *variables: str, output: IO[bytes] | None = None) -> int:
    """Run one target of the Makefile, and return the exit code of make."""
    begin = time.monotonic()
    shown = " ".join([target, *(one for one in variables if not one.startswith("JOURNAL="))])
    say(f"\n=== make {shown}", output)
    command = ["make", "--no-print-directory", target, *variables]
    code = subprocess.run(command, env=env, stdout=output, stderr=output and subprocess.STDOUT).returncode
    say(f"=== make {shown}: {time.monotonic() - begin:.0f} s", output)
    return code


def run_lane(targets: list[str], env: dict[str, str]) -> list[str]:
    """Run targets in parallel with other lanes; return the failed targets.

    The output of each target is printed at the target's end.
    """
    failed = []
    for target in targets:
        with printed_at_the_end() as output:
            if make(target, env, output=output):
                failed.append(target)
    return failed


@contextmanager
def printed_at_the_end() -> Iterator[IO[bytes]]:
    """Context manager: a file for the output of a program. At the end all of the output is printed."""
    with tempfile.TemporaryFile() as output:
        yield output
        output.seek(0)
        with printing:
            sys.stdout.buffer.write(output.read())
            sys.stdout.buffer.flush()


def fresh_servers() -> dict[str, str]:
    """Restart the servers of the tests; return the environment variables that tell tests where they are."""
    say("\n=== servers for the tests")
    done = subprocess.run(["/bin/bash", "-c", SERVERS], stdout=subprocess.PIPE)
    if done.returncode:
        raise NoServersError("the servers of the tests did not start (.ci/servers)")
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)


def count_of(tests: list[str]) -> str:
    return f"{len(tests)} test{'' if len(tests) == 1 else 's'}"


class Tests:
    """Runs all tests with ``make test``, and the failed ones a second time, one after the other."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.end_at = 0.0

    def run(self, folder: Path) -> dict[Path, int]:
        """Run all phases of ``make test``; return the journal and the exit code of each call of make.

        The second run's time limit begins when the last phase ends.
        """
        codes: dict[Path, int] = {}
        for group in PHASE_GROUPS:
            paths = [folder / phase for phase in group]
            run = self.run_phase if len(group) > 1 else self.run_phase_alone
            with ThreadPoolExecutor(len(group)) as pool:
                codes |= zip(paths, pool.map(run, paths), strict=True)
        self.end_at = time.monotonic() + SECOND_RUN_S
        return codes

    def run_phase_alone(self, path: Path) -> int:
        """Run one phase; return the exit code of make. The output is printed while the phase runs."""
        return make("test", self.env, f"PHASES={path.name}", f"JOURNAL={path}")

    def run_phase(self, path: Path) -> int:
        """Run one phase in parallel with others; return the exit code of make.

        The output is printed at the phase's end.

        :param path: the journal of the phase; its name is the phase
        """
        with printed_at_the_end() as output:
            return make("test", self.env, f"PHASES={path.name}", f"JOURNAL={path}", output=output)

    def run_again(self, tests: list[str], path: Path) -> None:
        """Run tests one after the other in a new pytest, with restarted servers and a separate journal."""
        say(f"\n=== once more, one after the other: {count_of(tests)}")
        try:
            env = fresh_servers()
        except NoServersError as error:
            say(f"=== failed: {error}")
            return
        run_alone(tests, path, env, self.end_at)


def run_alone(tests: list[str], path: Path, env: dict[str, str], end_at: float) -> None:
    """Run tests in a new pytest, and interrupt it at ``end_at`` (a time of ``time.monotonic()``)."""
    names = path.with_suffix(".tests")
    names.write_text("".join(f"{test}\n" for test in tests))
    command = [sys.executable, "-m", "pytest", f"--journal={path}", f"@{names}"]
    process = subprocess.Popen(command, env=env)
    try:
        process.wait(max(0, end_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        say(f"=== the second run has reached its limit of {SECOND_RUN_S / 60:.0f} minutes, and ends now")
        interrupt(process)
    journal.append(path, exit=process.returncode)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Interrupt pytest so that its fixtures clean up; kill it if the clean-up takes too long."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def report(verdict: Verdict, failed: list[str], seconds: float) -> None:
    """Print the result. The last lines name the flaky tests."""
    say("")
    for reason in verdict.red:
        say(f"=== {reason}")
    if verdict.ran_late:
        say(f"=== {count_of(verdict.ran_late)} ran in the second run only, and passed")
    result = (
        f"failed after {seconds:.0f} s: {' '.join(failed)}" if failed else f"all passed in {seconds:.0f} s"
    )
    say(f"=== {result}")
    for failure in verdict.flaky:
        say(f"flaky: {failure.test}: {failure.line}")


if __name__ == "__main__":
    sys.exit(main())
