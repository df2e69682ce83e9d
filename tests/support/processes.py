"""Processes of this host, read from ``/proc``, and programs that a test starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE_S, wait_until

PROC = Path("/proc")


def is_alive(pid: int) -> bool:
    """Return whether the process runs. A zombie, which its parent has not collected yet, does not run."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if the process is gone."""
    with contextlib.suppress(OSError):
        return int((PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()[1])
    return 0


def those(holds: Callable[[Path], object]) -> list[int]:
    """Call ``holds`` with the folder of every process in ``/proc``. Return the processes that it accepts.

    A process that ends meanwhile is left out. So is a process of another user whose files cannot be read.
    """
    found = []
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if holds(folder):
                found.append(int(folder.name))
    return found


def children_of(pid: int) -> list[int]:
    """Return the children of a process that run."""
    return [child for child in those(Path.exists) if parent_of(child) == pid and is_alive(child)]


def with_variable(variable: str) -> list[int]:
    """Return every process that has ``NAME=value`` in its environment."""
    return those(lambda folder: variable.encode() in (folder / "environ").read_bytes().split(b"\0"))


def of_job(nonce: str) -> list[int]:
    """Return the processes of a job by their nonce, including those that the job left behind."""
    return with_variable(f"STEPOP_NONCE={nonce}")


def runners_below(folder: Path) -> list[int]:
    """Return the runners of the jobs in ``folder`` or below it. A step dies with its runner."""

    def is_runner(process: Path) -> bool:
        words, cwd = (process / "cmdline").read_bytes().split(b"\0"), os.readlink(process / "cwd")
        return b"run" in words and b"--digest" in words and Path(cwd).is_relative_to(folder)

    return those(is_runner)


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to the processes that still exist."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(pids: Iterable[int], what: str) -> None:
    """Wait until none of the processes runs any more."""
    watched = list(pids)
    wait_until(
        lambda: [pid for pid in watched if is_alive(pid)], f"{what} to be gone", holds=lambda left: not left
    )


@contextlib.contextmanager
def started(argv: list[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program. At the end of the block, kill and collect it and close its pipes.

    :param options: of ``subprocess.Popen``
    """
    with subprocess.Popen(argv, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def printed(process: subprocess.Popen[Any]) -> tuple[Any, Any]:
    """Return the output of a program until its end: standard output and standard error."""
    try:
        return process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as late:
        what = f"the end of {process.args}; it printed {late.output!r}"
        raise AssertionError(f"waited {PATIENCE_S:g} s for {what}") from None


def ended(process: subprocess.Popen[Any]) -> int:
    """Wait for the end of a program, and return its exit code."""
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"waited {PATIENCE_S:g} s for the end of {process.args}") from None
