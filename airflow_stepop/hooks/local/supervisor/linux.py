"""What ``/proc`` tells about the processes of a step, and how to end them. Standard library only."""

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
OOM_SCORE = 500  # under memory pressure the kernel shall take the step, not Airflow

# Not every kernel is built with CONFIG_PROC_CHILDREN.
HAS_PROC_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def prctl(option: int, value: int) -> None:
    """Call prctl(2).

    :raises OSError: it failed
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def boot_clock() -> float:
    """Return seconds on a clock that nobody can set and that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return an id that changes when the host restarts."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def make_process_tree(mark: str) -> ProcessTree:
    return ProcessTree()


class ProcessTree:
    """See :class:`.systems.ProcessTree`. The kernel does it: it gives us the orphans of our children, and
    kills the runner when we die.
    """

    def __init__(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def join(self, supervisor: int) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)  # it died before the line above could tell

    def started(self, runner: int) -> None:
        pass

    def members(self) -> list[int]:
        return descendants()

    def everyone(self) -> list[int]:
        return descendants()

    def end(self) -> None:
        pass


def bind_cpus(count: int) -> None:
    """Choose some at random: the steps of a host shall not all share the first ones."""
    shuffled = sorted(os.sched_getaffinity(0), key=lambda _: os.urandom(4))
    os.sched_setaffinity(0, shuffled[:count])


def descendants() -> list[int]:
    """Return the pids of everything below this process: as a subreaper it inherits even daemons."""
    children_of = _children_of if HAS_PROC_CHILDREN else _children_from_scan()
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        children = children_of(pending.pop())
        found += children
        pending += children
    return found


def memory_bytes(pids: Iterable[int], limit: int | None) -> int:
    """Return what ``pids`` use together. Shared pages are counted once, but only when that could matter."""
    pids = list(pids)
    total = sum(_rss_bytes(pid) for pid in pids)
    if limit is not None and total > limit and len(pids) > 1:
        total = sum(_pss_bytes(pid) for pid in pids)
    return total


def kernel_oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since the host started."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def raise_oom_score() -> None:
    """Offer this process to the kernel, should it need memory; a courtesy that may fail."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < OOM_SCORE:
            file.seek(0)
            file.write(str(OOM_SCORE))


def kill_marked(mark: str) -> int:
    """Kill every process of this user whose environment has the line ``mark``; return how many there were.

    For what a dead supervisor has left behind. The environment is that of the last exec: a process that
    cleaned it cannot be found.
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
            if _is_marked(pid, mark):  # still: so the descriptor means this process and no later one
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _is_marked(pid: int, mark: bytes) -> bool | None:
    """Return whether a process has the line in its environment; ``None`` while that cannot be told."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            lines = file.read().split(b"\0")
        if lines == [b""] and not _has_no_environment(pid):
            return None
    except OSError:
        return False  # it ended, or it belongs to another user
    return mark in lines


def _has_no_environment(pid: int) -> bool:
    """Return whether a process of which none could be read has none, and is not in the middle of an exec.

    :raises OSError: it ended
    """
    with open(f"/proc/{pid}/stat", "rb") as file:  # proc_pid_stat(5)
        fields = file.read().rpartition(b") ")[2].split()
    state, flags = fields[0], int(fields[6])
    is_executed = fields[23] != b"0"  # startcode, which the kernel writes last: fs/binfmt_elf.c
    return (
        state in (b"Z", b"X")
        or bool(flags & (PF_EXITING | PF_KTHREAD))
        or (is_executed and fields[47] == fields[48])  # env_start, env_end
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    return found


def _children_from_scan() -> Callable[[int], list[int]]:
    """Look at every process of the host once."""
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
    return _rss_bytes(pid)  # it ended meanwhile, or it is not ours to read (setuid)
