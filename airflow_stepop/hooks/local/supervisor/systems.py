"""The interface to the operating system, with one implementation for Linux and one for every other Unix.

The request of a job names the implementation with which it was started. The supervisor and the hook get this
one from :func:`find_system`. Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

LINUX, PORTABLE = "linux", "portable"
OWN = LINUX if sys.platform == "linux" else PORTABLE
SUPPORTED = ("linux", "darwin")  # values of sys.platform


class ProcessTree(Protocol):
    """The processes of one step, as its supervisor sees them. Created before the runner is forked."""

    def join(self, supervisor: int) -> None:
        """Make the calling process, the forked runner before its exec, die with the supervisor.

        :param supervisor: pid of the supervisor
        """

    def started(self, runner: int) -> None:
        """Called by the supervisor as soon as it knows the runner's pid."""

    def members(self) -> list[int]:
        """Return the pids of the step's processes that a fast search finds."""

    def everyone(self) -> list[int]:
        """Return the pids of the step's processes after a thorough search. The caller kills them."""

    def end(self) -> None:
        """Called by the supervisor when no process of the step is left."""


class System(Protocol):
    """One of the modules :mod:`.linux` and :mod:`.portable`."""

    UNENFORCED: tuple[str, ...]
    """Resources that a step may ask for, although this system cannot enforce them."""

    def boot_clock(self) -> float:
        """Return the seconds of a clock that cannot be set and that also runs while the host sleeps."""

    def boot_id(self) -> str:
        """Return an id that changes when the host restarts; empty if the system has no such id."""

    def make_process_tree(self, mark: str) -> ProcessTree:
        """Return the process tree of the step whose environment has the line ``mark``."""

    def memory_bytes(self, pids: Iterable[int], limit: int | None) -> int:
        """Return the memory in bytes that ``pids`` use together. ``limit`` is the step's memory limit."""

    def kernel_oom_kills(self) -> int:
        """Return how many processes the kernel has killed for lack of memory; 0 if it has no counter."""

    def bind_cpus(self, count: int) -> None:
        """Bind this process and its children to ``count`` CPUs, if the system can."""

    def raise_oom_score(self) -> None:
        """Make this process the kernel's preferred victim if memory runs out, if the system can."""

    def kill_marked(self, mark: str) -> int:
        """Kill every process of this user whose environment has the line ``mark``. Return their number."""


def find_system(name: str) -> System:
    if name == LINUX:
        from airflow_stepop.hooks.local.supervisor import linux

        return linux
    from airflow_stepop.hooks.local.supervisor import portable

    return portable
