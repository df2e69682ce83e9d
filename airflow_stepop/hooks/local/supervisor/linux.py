"""The processes of a step on Linux, found with ``/proc``: the Linux version of :class:`.systems.System`.

The supervisor (``job.py``) and the hook use this module through ``systems.find_system``. Standard library
only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PF_EXITING, PF_KTHREAD = 0x4, 0x200000  # include/linux/sched.h

KILL_TIMEOUT_S = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
UNENFORCED: tuple[str, ...] = ()
OOM_SCORE = 500  # so that under memory pressure the kernel kills the step, not Airflow

# Some kernels are built without CONFIG_PROC_CHILDREN.
HAS_PROC_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def prctl(option: int, value: int) -> None:
    """Call prctl(2).

    :raises OSError: the call failed
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def boot_clock() -> float:
    """Return the seconds of a clock that cannot be set and that also runs while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return an id that changes when the host restarts."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def make_process_tree(mark: str) -> ProcessTree:
    return ProcessTree()


class ProcessTree:
    """See :class:`.systems.ProcessTree`. The kernel does the work with two calls of prctl(2).

    The supervisor is a "child subreaper": the kernel makes it the parent of its descendants' orphans. The
    runner has a "parent death signal": the kernel kills the runner when the supervisor dies.
    """

    def __init__(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def join(self, supervisor: int) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)  # the supervisor died before the line above took effect

    def started(self, runner: int) -> None:
        pass

    def members(self) -> list[int]:
        return descendants()

    def everyone(self) -> list[int]:
        return descendants()

    def end(self) -> None:
        pass


def bind_cpus(count: int) -> None:
    """Bind this process to ``count`` random CPUs. If all steps took the first CPUs, they would share them."""
    shuffled = sorted(os.sched_getaffinity(0), key=lambda _: os.urandom(4))
    os.sched_setaffinity(0, shuffled[:count])


def descendants() -> list[int]:
    """Return the pids of all descendants of this process. A subreaper is an ancestor of daemons too."""
    children_of = _children_of if HAS_PROC_CHILDREN else _children_from_scan()
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        children = children_of(pending.pop())
        found += children
        pending += children
    return found


def memory_bytes(pids: Iterable[int], limit: int | None) -> int:
    """Return the memory in bytes that the processes ``pids`` use together.

    The fast count (RSS) counts pages that processes share once per process. Only if it is above ``limit``,
    the slow count (PSS) counts them once.
    """
    pids = list(pids)
    total = sum(_rss_bytes(pid) for pid in pids)
    if limit is not None and total > limit and len(pids) > 1:
        total = sum(_pss_bytes(pid) for pid in pids)
    return total


def kernel_oom_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory since the host's start."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def raise_oom_score() -> None:
    """Make this process the kernel's preferred victim if memory runs out. Errors are ignored."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < OOM_SCORE:
            file.seek(0)
            file.write(str(OOM_SCORE))


def kill_marked(mark: str) -> int:
    """Kill every process of this user whose environment has the line ``mark``. Return how many were killed.

    This finds the processes that a dead supervisor has left behind. ``/proc`` shows the environment of a
    process's last exec. A process that was executed without this variable is not found.
    """
    wanted = mark.encode()
    killed = 0
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        found = [pid for pid in _pids() if _is_marked(pid, wanted) is not False]
        if not found:
            break
        killed += sum(_kill_if_marked(pid, wanted) for pid in found)
        time.sleep(0.005)
    return killed


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if _is_marked(pid, mark):  # checked again: before pidfd_open, the pid may have been reused
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _is_marked(pid: int, mark: bytes) -> bool | None:
    """Return whether a process has the line ``mark`` in its environment; ``None`` if that is unknown now."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            lines = file.read().split(b"\0")
        if lines == [b""] and not _has_no_environment(pid):
            return None
    except OSError:
        return False  # the process has ended, or belongs to another user
    return mark in lines


def _has_no_environment(pid: int) -> bool:
    """Return whether a process really has no environment. In the middle of an exec, the file is empty too.

    :raises OSError: the process has ended
    """
    with open(f"/proc/{pid}/stat", "rb") as file:  # proc_pid_stat(5)
        fields = file.read().rpartition(b") ")[2].split()
    state, flags = fields[0], int(fields[6])
    is_executed = fields[23] != b"0"  # startcode, which the kernel sets last in an exec: fs/binfmt_elf.c
    return (
        state in (b"Z", b"X")
        or bool(flags & (PF_EXITING | PF_KTHREAD))
        or (is_executed and fields[47] == fields[48])  # env_start, env_end
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # the process has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    return found


def _children_from_scan() -> Callable[[int], list[int]]:
    """Read the parent of every process of the host once. Return a function: pid -> pids of its children."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b") ")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    return lambda pid: children.get(pid, [])


def _rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES
    return 0


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return _rss_bytes(pid)  # the process has ended, or this user may not read the file (setuid)
