"""Runs one local job from its start to its last state. ``main.py`` calls it once it holds the job's lock.

Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from binascii import a2b_base64
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_stepop.hooks.local.supervisor import ending
from airflow_stepop.hooks.local.supervisor.gpus import GpuLocks
from airflow_stepop.hooks.local.supervisor.launch import launch
from airflow_stepop.hooks.local.supervisor.log import LogWriter
from airflow_stepop.hooks.local.supervisor.state import (
    CANCEL,
    CANCELLED,
    FAILED,
    LOG,
    PENDING,
    RUNNING,
    WAKE,
    make_tmp,
    remove_tmp,
    tmp_name,
    write_state,
)
from airflow_stepop.hooks.local.supervisor.systems import find_system
from airflow_stepop.runner.protocol import ENV_NONCE

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import Request, State
    from airflow_stepop.runner.wire import Failure, Receipt

KILL_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 2.0
RECEIPT_MAX_BYTES = 1024 * 1024
LOG_PIPE_BYTES = 256 * 1024  # with a large pipe, a step that prints fast waits less often for the supervisor
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage(2) of each system
LOOK_S = 0.5  # between two checks of the step's processes
LOOK_WITH_LIMIT_S = 0.1  # the same for a step with a memory limit
LOOK_NEAR_LIMIT_S = 0.02  # the same when 70 % of the limit are used
LOOK_SHARE = 0.05  # share of one CPU that the checks may use at most
LOOK_FOR_GPUS_S = 0.2  # between two attempts to take the GPUs


class Job:
    """One step, from its start to its last state. The current directory must be the job's folder.

    :param request: content of ``request.json``
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.limits = request["limits"]
        self.system = find_system(request["system"])
        self.state: State = {
            "state": RUNNING,
            "pid": os.getpid(),
            "boot_id": self.system.boot_id(),
            "started_at": None,
            "finished_at": None,
            "exit_code": None,
            "signal": None,
            "failure": None,
            "receipt": None,
            "usage": {},
            "tmp": self._tmp_folder(),
        }
        self.epoch = time.time() - self.system.boot_clock()
        self.oom_kills = self.system.kernel_oom_kills()
        self.peak_bytes = 0
        self.receipt = b""
        self.wait_status: int | None = None
        self.is_told_to_stop = False
        self.is_woken = False
        self.stopped: str | None = None
        self.kill_at: float | None = None

    def now(self) -> float:
        """Return seconds since the epoch. A change of the host's clock during the job has no effect on it."""
        return self.epoch + self.system.boot_clock()

    def _tmp_folder(self) -> str:
        base = self.request["env"].get("TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - see make_tmp
        return os.path.join(base, tmp_name(self.request["nonce"]))

    def run(self, announce: Callable[[], None]) -> None:
        """Start the step, call ``announce``, and return when the job's last state is written."""
        self.log = LogWriter(LOG, self.limits["log_bytes"], self.now)
        self.wake_fds = self._catch_signals()
        gpus = GpuLocks(self.request["gpus"], self.request["nonce"], self._kill_left_over)
        if not self._wait_for(gpus, announce):
            return
        make_tmp(self.state["tmp"])
        self.state.update({"state": RUNNING, "started_at": self.now()})
        write_state(".", self.state)
        self.began = self.system.boot_clock()
        self.process_tree = self.system.make_process_tree(f"{ENV_NONCE}={self.request['nonce']}")
        error = self._start(gpus.environment())
        announce()
        self._watch(gpus)
        self._kill_everything()
        self._drain()
        gpus.release()
        self._finish(error)
        self.process_tree.end()
        remove_tmp(self.state, self.request["nonce"])

    def _wait_for(self, gpus: GpuLocks, announce: Callable[[], None]) -> bool:
        """Wait until the step has its GPUs. Return ``False`` if the job was ended before that."""
        while not gpus.take():
            if self.state["state"] != PENDING:
                self.log.feed(f"[stepop] waiting for {gpus}\n".encode())
                self.state["state"] = PENDING
                write_state(".", self.state)
                announce()
            self._read(self.wake_fds, LOOK_FOR_GPUS_S)
            if os.path.exists(CANCEL):
                self.end_early(CANCELLED)
                return False
            if self.is_told_to_stop:
                self.end_early(FAILED, ending.told_to_stop())
                return False
        return True

    def end_early(self, state: str, failure: Failure | None = None) -> None:
        """Write the last state of a job whose step has not begun."""
        self.state.update({"state": state, "failure": failure, "finished_at": self.now()})
        write_state(".", self.state)

    def _kill_left_over(self, nonce: str) -> None:
        self.system.kill_marked(f"{ENV_NONCE}={nonce}")

    def _start(self, gpu_env: dict[str, str]) -> str:
        """Start the runner. Return an error message if it could not be executed, else ``""``."""
        self.log_fd, log_write_fd = os.pipe()
        with suppress(AttributeError, OSError):  # Linux only, and each user has a limit for all pipes
            fcntl.fcntl(self.log_fd, fcntl.F_SETPIPE_SZ, LOG_PIPE_BYTES)
        self.receipt_fd, receipt_write_fd = os.pipe()
        argv = [*self.request["argv"], "--receipt", f"fd:{receipt_write_fd}"]
        env = {**os.environ, **self.request["env"], **gpu_env, "TMPDIR": self.state["tmp"]}

        def prepare() -> None:
            self.process_tree.join(supervisor)
            if self.limits["cpu_count"] is not None:
                self.system.bind_cpus(self.limits["cpu_count"])
            self.system.raise_oom_score()

        supervisor = os.getpid()
        self.runner, error = launch(argv, env, prepare, log_fd=log_write_fd, receipt_fd=receipt_write_fd)
        self.process_tree.started(self.runner)
        os.close(log_write_fd)
        os.close(receipt_write_fd)
        self.open_fds = {self.log_fd, self.receipt_fd, *self.wake_fds}
        for fd in self.open_fds:
            os.set_blocking(fd, False)
        return error

    def _catch_signals(self) -> set[int]:
        """Install the signal handlers. Return descriptors that become readable after a signal or a note."""
        wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(wake_fd, False)
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(ignored, signal.SIG_IGN)
        self.note_fd = -1
        with suppress(OSError):  # some file systems have no named pipes
            self.note_fd = os.open(WAKE, os.O_RDWR | os.O_NONBLOCK)
        return {wake_fd, self.note_fd} - {-1}

    def _on_sigterm(self, *_: object) -> None:
        self.is_told_to_stop = True

    # -- watching

    def _watch(self, gpus: GpuLocks) -> None:
        """Apply the limits and copy the output until the runner has ended."""
        next_look, clock = 0.0, self.system.boot_clock
        while not self._reap():
            is_urgent = (self.is_told_to_stop or self.is_woken) and self.stopped is None
            if is_urgent or clock() >= next_look:
                self.is_woken = False
                next_look = clock() + self._look()
                gpus.keep()
            self._read(self.open_fds, max(0.0, next_look - clock()))

    def _read(self, fds: set[int], timeout_s: float) -> None:
        """Read the output and the receipt once. Return after data, a signal, a note or ``timeout_s``."""
        for fd in select.select(fds, [], [], timeout_s)[0]:
            data = os.read(fd, LOG_PIPE_BYTES)
            if fd == self.note_fd:
                self.is_woken = True
            elif fd in self.wake_fds:
                continue
            elif fd == self.log_fd:
                self.log.feed(data)
            elif len(self.receipt) <= RECEIPT_MAX_BYTES:
                self.receipt += data
            if not data:
                fds.discard(fd)

    def _reap(self) -> bool:
        """Reap every child that has ended. Return whether the runner has ended."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.runner:
                    self.wait_status = status
        except ChildProcessError:
            pass
        return self.wait_status is not None

    def _look(self) -> float:
        """Apply the limits. Return the seconds until the next check."""
        began = time.process_time()  # CPU time: by wall time, checks would become rare on a busy host
        self.log.show_progress()
        limit = self.limits["memory_bytes"]
        used = self.system.memory_bytes(self.process_tree.members(), limit)
        self.peak_bytes = max(self.peak_bytes, used)
        if limit is not None and used > limit:
            self._stop(ending.MEMORY_REASON, grace_s=0.0)
        reason = self._reason_to_stop()
        if reason is not None:
            self._stop(reason, self.limits["grace_period_s"])
        if self.kill_at is not None and self.system.boot_clock() >= self.kill_at:
            self._kill_everything()
        interval = LOOK_S
        if limit is not None:
            interval = LOOK_WITH_LIMIT_S if used < 0.7 * limit else LOOK_NEAR_LIMIT_S
        cost = time.process_time() - began
        due = self.began + self.limits["timeout_s"] if self.kill_at is None else self.kill_at
        return min(max(interval, cost / LOOK_SHARE), max(due - self.system.boot_clock(), LOOK_NEAR_LIMIT_S))

    def _reason_to_stop(self) -> str | None:
        if os.path.exists(CANCEL):
            return ending.CANCEL_REASON
        if self.is_told_to_stop:
            return ending.SHUTDOWN_REASON
        if self.system.boot_clock() - self.began >= self.limits["timeout_s"]:
            return ending.TIMEOUT_REASON
        return None

    def _stop(self, reason: str, grace_s: float) -> None:
        """Ask the runner to stop (SIGTERM), once. The first reason counts.

        :param grace_s: seconds until the step is killed; with 0 it gets no SIGTERM
        """
        if self.stopped is not None:
            return
        self.stopped = reason
        self.kill_at = self.system.boot_clock() + grace_s
        if grace_s:
            os.kill(self.runner, signal.SIGTERM)  # the runner is not reaped yet, so the pid is still its own

    def _kill_everything(self) -> None:
        """Kill every process of the step, daemons too, until none is left or ten seconds have passed."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < deadline:
            self._reap()
            pids = self.process_tree.everyone()
            if not pids:
                return
            for pid in pids:
                with suppress(ProcessLookupError, PermissionError):  # it has ended, or runs as another user
                    os.kill(pid, signal.SIGKILL)
            self._read(self.open_fds, 0.005)

    def _drain(self) -> None:
        """Read the rest of the pipes. The time is limited: a process that escaped may hold them open."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self.open_fds & {self.log_fd, self.receipt_fd} and time.monotonic() < deadline:
            self._read(self.open_fds, 0.05)
        self.log.finish()

    # -- finishing

    def _finish(self, error: str) -> None:
        status = self.wait_status or 0
        exit_code = os.waitstatus_to_exitcode(status)
        killed_by = ending.signal_name(-exit_code) if exit_code < 0 else None
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * MAXRSS_UNIT)
        self.state["exit_code"] = None if killed_by else exit_code
        self.state["signal"] = killed_by
        self.state["receipt"] = self._parse_receipt()
        self.state["usage"] = {
            "wall_s": round(self.system.boot_clock() - self.began, 6),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
            "peak_memory_bytes": self.peak_bytes,
        }
        if error:
            hint = "name another interpreter in LocalSettings(python=...)"
            self.state["state"] = FAILED
            self.state["failure"] = {"category": "bad_config", "summary": error, "hint": hint}
        else:
            self.state["state"], self.state["failure"] = ending.final_state(self._ending())
        if self.state["failure"]:
            self.state["failure"]["log_tail"] = self.log.tail()
        self.state["finished_at"] = self.now()
        write_state(".", self.state)

    def _ending(self) -> ending.Ending:
        return ending.Ending(
            stopped=self.stopped,
            exit_code=self.state["exit_code"],
            signal=self.state["signal"],
            has_receipt=self.state["receipt"] is not None,
            step_signal=signal_in(self.state["receipt"]),
            is_host_out_of_memory=self.system.kernel_oom_kills() > self.oom_kills,
            peak_memory_bytes=self.peak_bytes,
            memory_limit_bytes=self.limits["memory_bytes"],
            timeout_s=self.limits["timeout_s"],
        )

    def _parse_receipt(self) -> Receipt | None:
        try:
            receipt: Receipt = json.loads(self.receipt)
        except ValueError:
            return None  # there is no receipt, or the runner was killed while it wrote the receipt
        return receipt


def signal_in(receipt: Receipt | None) -> str | None:
    """Return the name of the signal that killed the step, if the receipt holds an outcome with one."""
    try:
        reason = json.loads(a2b_base64((receipt or {})["outcome"]))["failure"]["native_reason"]
    except (KeyError, TypeError, ValueError):
        return None
    return str(reason)
