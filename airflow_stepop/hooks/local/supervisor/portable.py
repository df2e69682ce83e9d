"""The processes of a step on any Unix: the version of :class:`.systems.System` for macOS.

**How it works:** The kernel of Linux makes the supervisor the parent of a step's orphans; other kernels do
not. So this module polls the processes of the host. It recognises an orphan of the step because an earlier
poll saw the process with its parent, by its session, or by its environment.

**Known limits:** A process that leaves its parent, its session and its environment within half a second,
between two polls, escapes. ``cpu_count`` is not enforced. Shared memory counts once per process.

The supervisor (``job.py``) and the hook use this module through ``systems.find_system``. Besides the standard
library, it needs psutil.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil

KILL_TIMEOUT_S = 10.0
LOOK_AGAIN_S = 0.02
UNENFORCED: tuple[str, ...] = ("cpu_count",)  # macOS cannot bind a process to CPUs
_GONE = (psutil.Error, OSError)


def boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def boot_id() -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode().strip()


def make_process_tree(mark: str) -> ProcessTree:
    return ProcessTree(mark)


class ProcessTree:
    """See :class:`airflow_stepop.hooks.local.supervisor.systems.ProcessTree`.

    A guardian kills the step if the supervisor is killed. The guardian is a fork of the supervisor. It reads
    a pipe, which ends when the supervisor does.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        reader, self._pipe = os.pipe()
        self._guardian = os.fork()
        if self._guardian == 0:
            try:
                _guard(reader, mark)
            finally:
                os._exit(0)
        os.close(reader)
        self._kin = _Kin(os.getpid(), apart={self._guardian})

    def join(self, supervisor: int) -> None:
        # The guardian must know which process to kill when the supervisor dies
        self._notify_guardian(b"%d\n" % os.getpid())
        os.close(self._pipe)

    def started(self, runner: int) -> None:
        self._kin.sessions.add(runner)

    def members(self) -> list[int]:
        return [process.pid for process in self._kin.look()]

    def everyone(self) -> list[int]:
        return sorted({process.pid for process in _marked(self._mark)}.union(self.members()))

    def end(self) -> None:
        self._notify_guardian(b"end\n")
        os.close(self._pipe)

    def _notify_guardian(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the guardian was killed
            os.write(self._pipe, message)


class _Kin:
    """The descendants of the process ``root``, with those that have lost their parent since an earlier poll.

    :param apart: pids that do not count, such as the guardian's
    """

    def __init__(self, root: int, apart: Iterable[int] = ()) -> None:
        self._root = root
        self._apart = {root, os.getpid(), *apart}
        self._known: set[psutil.Process] = set()
        self.sessions: set[int] = set()

    def look(self) -> list[psutil.Process]:
        processes: dict[int, psutil.Process] = {}
        children: dict[int, list[int]] = {}
        for process in psutil.process_iter(["ppid", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                processes[process.pid] = process
                children.setdefault(process.info["ppid"], []).append(process.pid)
        known = [process for process in self._known if processes.get(process.pid) == process]
        found = {process.pid for process in known}
        found |= {pid for pid in processes if _session(pid) in self.sessions}
        pending = [self._root, *found]
        while pending:
            below = [pid for pid in children.get(pending.pop(), ()) if pid not in found]
            found.update(below)
            pending += below
        self._known = {processes[pid] for pid in found - self._apart}
        # Only sessions that still have a process: the system may reuse the number of an empty session.
        self.sessions = {session for p in self._known if (session := _session(p.pid))}
        self.sessions -= {_session(os.getpid())}
        return list(self._known)


def _guard(reader: int, mark: str) -> None:
    """Run as the guardian: wait for the end of the supervisor, then kill the processes that it leaves behind.

    A supervisor that ends properly writes ``end`` to the pipe; then there is nothing to kill.
    """
    os.setsid()
    os.dup2(reader, 0)
    os.closerange(3, 4096)  # also the supervisor's lock, which the guardian must not hold
    signal.set_wakeup_fd(-1)
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    received = b""
    while data := os.read(0, 64):
        received += data
    words = received.split()
    if b"end" in words or not words:
        return
    runner = int(words[0])
    kin = _Kin(runner)
    kin.sessions.add(runner)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        members = kin.look()
        with contextlib.suppress(*_GONE):
            members.append(psutil.Process(runner))
        killed = sum(_kill(process) for process in members) + kill_marked(mark)
        if not killed:
            return
        time.sleep(0.005)


def memory_bytes(pids: Iterable[int], limit: int | None) -> int:
    """Return the memory in bytes that ``pids`` use together. Shared pages count once per process."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            total += psutil.Process(pid).memory_info().rss
    return total


def kernel_oom_kills() -> int:
    return 0


def bind_cpus(count: int) -> None:
    pass


def raise_oom_score() -> None:
    pass


def kill_marked(mark: str) -> int:
    killed = 0
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        count = sum(map(_kill, _marked(mark)))
        if not count:
            break
        killed += count
        time.sleep(0.005)
    return killed


def _marked(mark: str) -> list[psutil.Process]:
    """Return the processes of this user whose environment has the line ``mark``.

    The function searches twice, because a process in the middle of an exec has no environment for a moment.
    """
    for pause_s in (0.0, LOOK_AGAIN_S):
        time.sleep(pause_s)
        if found := [process for process in psutil.process_iter() if _is_marked(process, mark)]:
            return found
    return []


def _is_marked(process: psutil.Process, mark: str) -> bool:
    name, _, value = mark.partition("=")
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.environ().get(name) == value)
    except _GONE:
        return False  # the process has ended, or belongs to another user


def _kill(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()  # psutil refuses if the pid belongs to another process now
    except _GONE:
        return False
    return True


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0
