"""What a local job needs of its operating system: one way for Linux, one for every other Unix.

A job's request says by which way it was started, and whoever looks at the job goes the same.
Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

LINUX, PORTABLE = "linux", "portable"
OWN = LINUX if sys.platform == "linux" else PORTABLE
SUPPORTED = ("linux", "darwin")  # values of sys.platform


class ProcessTree(Protocol):
    """The processes of one step, as its supervisor sees them. Made before the runner is forked."""

    def join(self, supervisor: int) -> None:
        """Called by the forked runner before it becomes its program: it shall die with the supervisor."""

    def started(self, runner: int) -> None:
        """Called by the supervisor as soon as it knows the runner's pid."""

    def members(self) -> list[int]:
        """Return the pids of everything that the step has started and is known."""

    def everyone(self) -> list[int]:
        """Return the same after a longer search: they are to be killed."""

    def end(self) -> None:
        """Called when nobody is left."""


class System(Protocol):
    """One of the modules :mod:`.linux` and :mod:`.portable`."""

    UNENFORCED: tuple[str, ...]
    """Resources that can be asked for and not be enforced."""

    def boot_clock(self) -> float:
        """Return seconds on a clock that nobody can set and that goes on while the host sleeps."""

    def boot_id(self) -> str:
        """Return an id that changes when the host restarts; empty when it cannot be had."""

    def make_process_tree(self, mark: str) -> ProcessTree:
        """Return the process tree of the step whose environment has the line ``mark``."""

    def memory_bytes(self, pids: Iterable[int], limit: int | None) -> int:
        """Return what ``pids`` use together."""

    def kernel_oom_kills(self) -> int:
        """Return how many processes the kernel has killed for lack of memory; 0 when it does not say."""

    def bind_cpus(self, count: int) -> None:
        """Let this process and its children run on ``count`` CPUs, if the system can."""

    def raise_oom_score(self) -> None:
        """Offer this process to the kernel, should it need memory."""

    def kill_marked(self, mark: str) -> int:
        """Kill every process of this user whose environment has the line ``mark``; return how many."""


def find_system(name: str) -> System:
    if name == LINUX:
        from airflow_stepop.hooks.local.supervisor import linux

        return linux
    from airflow_stepop.hooks.local.supervisor import portable

    return portable
