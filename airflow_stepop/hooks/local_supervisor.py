"""The process that starts and watches one local job. :mod:`airflow_stepop.hooks.local` runs this file by its path.

``python -I -S local_supervisor.py JOB_FOLDER`` returns as soon as the job is supervised, by this call or by an
earlier one; the supervisor itself goes on in the background and needs no Airflow. Whoever holds ``lock`` and is
the first to write ``state.json`` starts the step: so it starts at most once, however often this is called.

Standard library only, and nothing of airflow-stepop: it must start fast and outlive whatever is installed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import resource
import select
import signal
import sys
import time
from collections import deque

# files of a job's folder; renaming one breaks jobs in flight
REQUEST = "request.json"  # what to run, within which limits
START = "start"  # permission to start: `lookup` takes it back from a supervisor whose caller died
LOCK = "lock"  # held by the supervisor as long as it lives
STATE = "state.json"  # first written just before the step starts, last when the job is over
RESERVE = "state.reserve"  # disk space for the last state.json, so that a full disk cannot lose it
CANCEL = "cancel"  # somebody wants the job to stop
LOG = "log"  # "<epoch seconds> <line>"
SUPERVISOR_LOG = "supervisor.log"

EXIT_SUPERVISED = 0  # state.json is there
EXIT_FAILED = 1  # stderr says why
EXIT_NO_PERMISSION = 3  # `start` is gone: the job was looked up, and was not there yet

LOCK_TIMEOUT_S = 10.0
RECEIPT_MAX_BYTES = 1024 * 1024
RESERVE_BYTES = 640 * 1024
LINE_MAX_BYTES = 16 * 1024
TAIL_LINES = 20
KILL_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 2.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OOM_SCORE = 500  # under memory pressure the kernel shall take the step, not Airflow

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class NoPermissionError(Exception):
    """The job may not start any more."""


def prctl(option, value):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def write_state(folder, state):
    """Replace ``state.json``, durably. The last state goes into the space that was reserved for it."""
    data = json.dumps(state, ensure_ascii=False).encode("utf-8", "surrogateescape")
    reserve = os.path.join(folder, RESERVE)
    if state["finished_at"] is None:
        target = os.path.join(folder, STATE + ".new")
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    else:
        target = reserve
        fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(target, os.path.join(folder, STATE))
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def reserve_space(folder):
    fd = os.open(os.path.join(folder, RESERVE), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, RESERVE_BYTES)
    finally:
        os.close(fd)


# --- processes


def children_by_parent():
    """Return parent pid -> child pids of everything on this host, from ``/proc/*/stat``."""
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name, "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(name))
    return children


def children_of(pid):
    """Return the children of ``pid``, without a look at every process of the host."""
    found = []
    try:
        for thread in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, thread), "rb") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass  # it ended meanwhile
    return found


# Not every kernel is built with CONFIG_PROC_CHILDREN.
HAS_PROC_CHILDREN = os.path.exists("/proc/self/task/%d/children" % os.getpid())


def descendants():
    """Return the pids of everything below this process: as a subreaper it inherits even daemons."""
    look_up = children_of if HAS_PROC_CHILDREN else children_by_parent_lookup()
    found = []
    pending = [os.getpid()]
    while pending:
        children = look_up(pending.pop())
        found += children
        pending += children
    return found


def children_by_parent_lookup():
    children = children_by_parent()
    return lambda pid: children.get(pid, [])


def memory_bytes(pids, limit):
    """Return what ``pids`` use together. Shared pages are counted once, but only when that could matter."""
    total = sum(_rss_bytes(pid) for pid in pids)
    if limit is not None and total > limit and len(pids) > 1:
        total = sum(_pss_bytes(pid) for pid in pids)
    return total


def _rss_bytes(pid):
    try:
        with open("/proc/%d/statm" % pid, "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _pss_bytes(pid):
    try:
        with open("/proc/%d/smaps_rollup" % pid, "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it ended meanwhile, or it is not ours to read (setuid): then its RSS has to do
    return _rss_bytes(pid)


def kernel_oom_kills():
    """Return how many processes the kernel has killed for lack of memory since the host started."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def boot_clock():
    """Return seconds on a clock that nobody can set and that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id():
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


# --- the log


class Log:
    """Writes the step's output as ``<epoch seconds> <line>`` records; never fails, even on a full disk."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.fd).st_size
        self.partial = b""
        self.tail = deque(maxlen=TAIL_LINES)
        self.lost_lines = 0

    def feed(self, data):
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()
        whole = [piece for line in lines for piece in split_line(line)]
        if len(self.partial) > LINE_MAX_BYTES:
            pieces = split_line(self.partial)
            self.partial = pieces.pop()
            whole += pieces
        self._write(whole)

    def finish(self):
        if self.partial:
            self._write(split_line(self.partial))
            self.partial = b""

    def _write(self, lines):
        if not lines:
            return
        self.tail.extend(line[:2000].decode("utf-8", "replace") for line in lines[-TAIL_LINES:])
        stamp = b"%.6f " % time.time()
        notice = []
        if self.lost_lines:
            notice = [b"[stepop] %d lines of this log are missing: the disk was full" % self.lost_lines]
        data = b"".join([stamp + line + b"\n" for line in notice + lines])
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            self.lost_lines += len(lines)
            os.ftruncate(self.fd, self.size)  # no half record
        else:
            self.size += len(data)
            self.lost_lines = 0


def split_line(line):
    """Return ``line`` in pieces that are not too long, cut between characters."""
    pieces = []
    while len(line) > LINE_MAX_BYTES:
        cut = LINE_MAX_BYTES
        while cut > LINE_MAX_BYTES - 4 and line[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


# --- the job


class Job:
    """One step from its start to its last state. The current directory is the job's folder."""

    def __init__(self, request):
        self.request = request
        self.limits = request["limits"]
        self.state = {
            "state": "running",
            "pid": os.getpid(),
            "boot_id": boot_id(),
            "started_at": time.time(),
            "finished_at": None,
            "exit_code": None,
            "signal": None,
            "failure": None,
            "receipt": None,
            "usage": {},
        }
        self.began = boot_clock()
        self.stopped = None  # why we end the job: cancelled, shutdown, timeout, oom
        self.kill_at = None
        self.peak_bytes = 0
        self.oom_kills = kernel_oom_kills()
        self.receipt = b""
        self.wait_status = None
        self.is_told_to_stop = False

    def run(self, announce):
        """Start the step, tell ``announce``, and return when the job is over and its state is written."""
        write_state(".", self.state)
        self.log = Log(LOG)
        wake_fd = self._catch_signals()
        self.log_fd, log_write_fd = os.pipe()
        self.receipt_fd, receipt_write_fd = os.pipe()
        self.runner, error = self._start(log_write_fd, receipt_write_fd)
        os.close(log_write_fd)
        os.close(receipt_write_fd)
        announce()
        if error:
            self._fail("bad_config", error, hint="check LocalSettings(python=...)")
        self.open_fds = {self.log_fd, self.receipt_fd, wake_fd}
        for fd in self.open_fds:
            os.set_blocking(fd, False)
        self._watch()
        self._kill_everything()
        self._drain()
        self._finish()

    # start

    def _catch_signals(self):
        """Return a descriptor that becomes readable when a signal has arrived."""
        wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        return wake_fd

    def _on_sigterm(self, *_):
        self.is_told_to_stop = True

    def _start(self, log_fd, receipt_fd):
        """Return the runner's pid, and why it could not be executed, if so."""
        error_fd, error_write_fd = os.pipe()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become_runner(supervisor, log_fd, receipt_fd)
            except BaseException as error:  # this is the child: nothing may go back to the supervisor's code
                os.write(error_write_fd, ("the step could not be started: %s" % error).encode())
            finally:
                os._exit(127)
        os.close(error_write_fd)
        with os.fdopen(error_fd, "rb") as file:
            return pid, file.read().decode("utf-8", "replace")

    def _become_runner(self, supervisor, log_fd, receipt_fd):
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)  # it died before the line above could tell
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        cpu_count = self.limits["cpu_count"]
        if cpu_count is not None:
            allowed = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, random.sample(allowed, min(cpu_count, len(allowed))))
        raise_oom_score()
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.set_inheritable(receipt_fd, True)
        argv = [*self.request["argv"], "--receipt", "fd:%d" % receipt_fd]
        os.execve(argv[0], argv, {**os.environ, **self.request["env"]})

    # watch

    def _watch(self):
        """Return when the runner has ended."""
        next_look = 0.0
        while not self._reap():
            now = boot_clock()
            if now >= next_look or (self.is_told_to_stop and not self.stopped):
                interval = self._look()
                next_look = boot_clock() + interval
            self._read(max(0.0, next_look - boot_clock()))

    def _read(self, timeout_s):
        """Take in what the step has written; return early when something happens."""
        for fd in select.select(self.open_fds, [], [], timeout_s)[0]:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                continue
            if fd == self.log_fd:
                self.log.feed(data)
            elif fd == self.receipt_fd and len(self.receipt) <= RECEIPT_MAX_BYTES:
                self.receipt += data
            if not data:
                self.open_fds.discard(fd)

    def _reap(self):
        """Collect every ended child; return whether the runner is one of them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.runner:
                self.wait_status = status
        return self.wait_status is not None

    def _look(self):
        """Apply the limits; return in how many seconds to look again."""
        began = time.monotonic()
        limit = self.limits["memory_bytes"]
        used = memory_bytes(descendants(), limit)
        self.peak_bytes = max(self.peak_bytes, used)
        if limit is not None and used > limit and self.stopped != "oom":
            self._stop("oom")
        elif self.is_told_to_stop or os.path.exists(CANCEL):
            self._stop("cancelled" if os.path.exists(CANCEL) else "shutdown")
        elif boot_clock() - self.began >= self.limits["timeout_s"]:
            self._stop("timeout")
        if self.kill_at is not None and boot_clock() >= self.kill_at:
            self._kill_everything()
        cost = time.monotonic() - began
        if limit is None:
            interval = 0.5
        else:
            interval = 0.1 if used < 0.7 * limit else 0.02
        remaining = self.began + self.limits["timeout_s"] - boot_clock()
        if self.kill_at is not None:
            remaining = self.kill_at - boot_clock()
        return min(max(interval, 20 * cost), max(remaining, 0.02))

    def _stop(self, why):
        if self.stopped is not None and why != "oom":
            return
        self.stopped = self.stopped or why
        if why == "oom":
            self.kill_at = boot_clock()
            return
        self.kill_at = boot_clock() + self.limits["grace_period_s"]
        os.kill(self.runner, signal.SIGTERM)  # not reaped yet, so the pid is still its own

    def _kill_everything(self):
        """Kill whatever the step has started, daemons too, until nothing is left."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < deadline:
            self._reap()
            pids = descendants()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._read(0.005)

    def _drain(self):
        """Read what is left in the pipes; nobody but a stranger can hold them open now."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self.open_fds & {self.log_fd, self.receipt_fd} and time.monotonic() < deadline:
            self._read(0.05)
        self.log.finish()

    # finish

    def _fail(self, category, summary, native_reason="", hint=""):
        self.state["state"] = "failed"
        self.state["failure"] = {
            "category": category,
            "summary": summary,
            "native_reason": native_reason,
            "hint": hint,
        }

    def _finish(self):
        if os.WIFSIGNALED(self.wait_status):
            self.state["signal"] = signal_name(os.WTERMSIG(self.wait_status))
        else:
            self.state["exit_code"] = os.WEXITSTATUS(self.wait_status)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
        self.state["usage"] = {
            "wall_s": round(boot_clock() - self.began, 6),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
            "peak_memory_bytes": self.peak_bytes,
        }
        self.state["receipt"] = self._parse_receipt()
        self._judge()
        if self.state["failure"]:
            self.state["failure"]["exit_code"] = self.state["exit_code"]
            self.state["failure"]["log_tail"] = list(self.log.tail)
        self.state["finished_at"] = time.time()
        write_state(".", self.state)

    def _parse_receipt(self):
        try:
            return json.loads(self.receipt.decode())
        except ValueError:
            return None  # none at all, or cut off with its writer

    def _judge(self):
        """Decide how the job ended: a reason of ours first, then the receipt, then the exit code."""
        if self.state["failure"]:
            return
        if self.stopped:
            self._judge_stopped()
        elif self.state["receipt"] is not None:
            self.state["state"] = "succeeded" if self.state["exit_code"] == 0 else "failed"
        elif self.state["signal"]:
            self._judge_signal()
        else:
            self._judge_exit_code()

    def _judge_stopped(self):
        limits = self.limits
        if self.stopped == "cancelled":
            self.state["state"] = "cancelled"
        elif self.stopped == "timeout":
            self._fail(
                "timeout",
                "the step ran longer than its timeout of %s" % seconds(limits["timeout_s"]),
                hint="raise timeout, or find out what it waited for",
            )
        elif self.stopped == "oom":
            self._fail(
                "oom",
                "the step used %s of memory, its limit is %s"
                % (human_bytes(self.peak_bytes), human_bytes(limits["memory_bytes"])),
                hint="raise ResourceSettings(memory=...)",
            )
        else:
            self._fail(
                "infra", "the job's supervisor was told to stop (SIGTERM)", hint="was the host shut down?"
            )

    def _judge_signal(self):
        name = self.state["signal"]
        if name == "SIGKILL" and kernel_oom_kills() > self.oom_kills:
            self._fail(
                "oom",
                "the step was killed while this host was out of memory; its peak was %s"
                % human_bytes(self.peak_bytes),
                native_reason=name,
                hint="set ResourceSettings(memory=...), run fewer steps at once, or use a remote backend",
            )
        elif name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"):
            self._fail("infra", "the step's process was killed from outside (%s)" % name, native_reason=name)
        else:
            self._fail(
                "user_error",
                "the step's process crashed (%s) and left no outcome" % name,
                native_reason=name,
                hint="the crash is in native code: look at the last lines, or try another version of the library",
            )

    def _judge_exit_code(self):
        code = self.state["exit_code"]
        category = "infra" if code == 74 else "user_error"  # 74: the runner could not write its outcome
        self._fail(category, "the step's process ended with exit code %d and left no outcome" % code)


def raise_oom_score():
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) < OOM_SCORE:
                file.seek(0)
                file.write(str(OOM_SCORE))
    except OSError:
        pass  # a courtesy only


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def human_bytes(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return "%.4g %s" % (count, unit)
        count /= 1024
    return "%.4g TiB" % count


def seconds(value):
    return "%g s" % value if value < 600 else "%g min" % round(value / 60, 1)


# --- becoming the supervisor


def take_lock():
    """Return once this process holds the job's lock: ``True``, or ``False`` when the job has a state already."""
    fd = os.open(LOCK, os.O_RDWR)  # stays open: closing any descriptor of this file would release the lock
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not os.path.exists(STATE):
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)  # another supervisor that is about to write the state, or a `lookup`
        else:
            return not os.path.exists(STATE)
    return False


def supervise(announce):
    os.setsid()
    if not take_lock():
        announce()
        return
    if not os.path.exists(START):
        raise NoPermissionError
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(REQUEST, encoding="utf-8") as file:
        job = Job(json.load(file))
    if os.path.exists(CANCEL):
        job.state.update(state="cancelled", finished_at=time.time())
        write_state(".", job.state)
        announce()
        return
    reserve_space(".")
    job.run(announce)


def go_to_background(ready_fd):
    """Let go of everything that belongs to the caller, except the pipe on which it waits."""
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(SUPERVISOR_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.closerange(3, ready_fd)
    os.closerange(ready_fd + 1, 1024)


def run_in_background(ready_fd):
    def announce(message=b"\0"):
        os.write(ready_fd, message)
        os.close(ready_fd)

    go_to_background(ready_fd)
    try:
        supervise(announce)
    except NoPermissionError:
        announce(b"\x03")
    except BaseException as error:  # the outermost frame: whoever waits must hear of it
        import traceback

        traceback.print_exc()
        try:
            announce(("\x01%s: %s" % (type(error).__name__, error)).encode())
        except OSError:
            pass  # it was announced long ago, and supervisor.log has the rest


def main(argv):
    os.chdir(argv[1])
    ready_fd, ready_write_fd = os.pipe()
    if os.fork() == 0:
        try:
            os.close(ready_fd)
            run_in_background(ready_write_fd)
        finally:
            os._exit(0)
    os.close(ready_write_fd)
    with os.fdopen(ready_fd, "rb") as file:
        message = file.read()
    if not message:
        message = b"\x01the supervisor was killed while it started"
    sys.stderr.write(message[1:].decode("utf-8", "replace"))
    return message[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
