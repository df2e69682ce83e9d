"""The parent process of the runner. The backend's job starts it with this command line:

``python3 -u step.pyz run --in DIR --out DIR --digest SHA256 --receipt (FILE | fd:N | -)
[--receipt-limit BYTES] [--segments DIR] [--checkpoint DIR] [--timeout SECONDS] [--grace SECONDS]
[--linger SECONDS] [--seal HEX [--sign (0 | 1)]] [--secrets env] [--mounted (0 | 1)] [--sync DIR]
[--failure FILE]
[--started (DIR | started.json) --job-id (TEXT | env:NAME) [--restarts (0 | 1)] [--kept DIR:DIR]]``
"""

# 1. The parent checks the manifest and forks. The child (:mod:`.child`) runs the step.
# 2. The parent waits for the child. Meanwhile it measures usage, applies the time limit, saves checkpoints.
# 3. The parent writes the receipt, also when the child was killed.
#
# The parent imports little and runs no user code, so the step cannot break it. The parent may be process 1 of
# a container. The message about a wrong option shows the docstring.

from __future__ import annotations

import atexit
import json
import os
import signal
import sys

from . import files, protocol
from .alarm import Alarm, TimeLimit
from .drain import wait_until_read
from .failures import StepError, ended
from .files import make_scratch, modules_folder, quietly, remove_tree, report
from .manifest import read_manifest
from .meter import Meter
from .phases import phase
from .receipt import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from .secrets import Secrets
    from .snapshots import Snapshots
    from .wire import Manifest, Outcome, Usage

_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_FOLDERS = {"in", "out", "segments", "checkpoint", "sync", "failure"}  # the last one is a file
_OPTIONAL = {*_FOLDERS, "seal", "sign", "secrets", "started", "job-id", "restarts", "mounted", "kept"}
_THREAD_GRACE = os.environ.get(protocol.ENV_THREAD_GRACE, "")  # read before the step can change it


def main(argv: list[str]) -> int:
    """Run the step; return the exit code. The function returns in both processes, parent and child.

    :param argv: the command line without the program; see the module's docstring
    """
    try:
        options = _options(argv)
    except ValueError as error:
        sys.stderr.write(f"stepop: {error}\nusage: {' '.join((__doc__ or '``').split('``')[1].split())}\n")
        return protocol.EXIT_REFUSED
    files.is_mounted = options.get("mounted") == "1"
    if "started" in options:
        from .once import refusal

        code = refusal(options)
        if code is not None:
            return code
    meter = Meter()
    # Signals stay blocked until there is a child to forward them to: the parent must always write a receipt
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by the caller, it would discard the exit status
    identity = os.environ.get(protocol.ENV_JOB, ""), os.environ.get(protocol.ENV_NONCE, "")
    try:
        # remove the outcome of an earlier attempt in the same folder
        quietly(os.unlink, os.path.join(options["out"], protocol.OUTCOME))
        manifest = read_manifest(options)
        identity = manifest["job"], manifest["nonce"]
        helpers = _Helpers(options, manifest)
    except StepError as error:
        for name in (protocol.SECRETS, protocol.CHECKPOINT):
            quietly(os.unlink, os.path.join(options["in"], name))
        return finish(options, _own_outcome(options, identity, error, {}), protocol.EXIT_REFUSED)
    return _run(options, manifest, helpers, meter)


def _run(options: dict[str, str], manifest: Manifest, helpers: _Helpers, meter: Meter) -> int:
    receiver, sender = os.pipe()
    pid = _fork()
    if pid == 0:
        _hear_signals()
        os.close(receiver)
        return _child(options, manifest, helpers, sender, meter)
    os.close(sender)
    status, rusage, forwarded, limit = _wait(pid, meter, helpers, options)
    found, why = None, _death(status, forwarded)
    try:
        found = _outcome(options, manifest["nonce"], receiver)
    except StepError as error:
        why = error
    if found is None or (limit.is_over and json.loads(found[0])["status"] != "success"):
        why = limit.error() if limit.is_over else why
        found = _own_outcome(options, (manifest["job"], manifest["nonce"]), why, meter.usage(rusage))
    code = finish(options, found, os.WEXITSTATUS(status) if os.WIFEXITED(status) else None)
    if "kept" in options and code != protocol.EXIT_NO_OUTCOME:
        from .kept import keep

        keep(options, manifest["nonce"], found[0], code)
    helpers.finish(code)  # last: a checkpoint may take long, and the backend may kill the runner meanwhile
    wait_until_read(float(options["linger"]))
    return code


def leave(code: int) -> None:
    """End the process: wait for threads, run exit handlers, flush the streams, exit.

    The teardown of Python's modules is left out: it takes milliseconds, and native libraries may crash in it.
    """
    try:
        threading = sys.modules.get("threading")
        if "multiprocessing.process" in sys.modules or (threading and threading.active_count() > 1):
            from .leftovers import wait_for_threads

            wait_for_threads(_THREAD_GRACE)
        elif threading:
            threading._shutdown()  # multiprocessing does the same
        atexit._run_exitfuncs()
    except BaseException as error:  # an exit handler of the step may fail; the outcome is already written
        quietly(os.write, 2, f"stepop: at exit: {type(error).__name__}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib is an import more
            stream.flush()
        except BaseException:  # noqa: S110 - the step may have closed it, or put any object there
            pass
    os._exit(code)


def _options(argv: list[str]) -> dict[str, str]:
    required = {"in", "out", "digest", "receipt"}
    numbers = {"receipt-limit": str(protocol.RECEIPT_LIMIT), "timeout": "0", "grace": "0", "linger": "0"}
    known = {*required, *numbers, *_OPTIONAL}
    if argv[:1] != ["run"] or len(argv) % 2 == 0:
        raise ValueError("expected 'run' and options with values")
    options = dict(numbers)
    for name, value in zip(argv[1::2], argv[2::2]):
        if name[:2] != "--" or name[2:] not in known:
            raise ValueError(f"unknown option {name}")
        options[name[2:]] = value
    missing = _missing(options, required)
    if missing:
        raise ValueError(f"missing --{', --'.join(sorted(missing))}")
    options.setdefault("segments", options["out"])
    for name in _FOLDERS & set(options):  # the step may change its folder
        options[name] = os.path.abspath(options[name]) if options[name] != protocol.NOWHERE else ""
    int(options["receipt-limit"])
    list(map(float, (options["timeout"], options["grace"], options["linger"])))
    if options["receipt"].startswith("fd:"):
        int(options["receipt"][3:])
    elif options["receipt"] != "-":
        options["receipt"] = os.path.abspath(options["receipt"])
    return options


def _missing(options: dict[str, str], required: set[str]) -> set[str]:
    if "kept" in options:  # the results lie beside a marker that is a file, and their record needs a key
        required = required | {"seal", "started"}
    elif "sign" in options:
        required = required | {"seal"}
    return required - {name for name in options if options[name] != protocol.STARTED_TABLE}


# -- before the fork -----------------------------------------------------------------------------------------


class _Helpers:
    """The scratch folder of the step and, if the step has them, its secrets and its checkpoint snapshots.

    Made before the fork, used in both processes.

    :raises StepError: no folder is writable, or the secrets or the checkpoint's addresses are missing
    """

    def __init__(self, options: dict[str, str], manifest: Manifest) -> None:
        self.secrets: Secrets | None = None
        self.snapshots: Snapshots | None = None
        if manifest.get("secrets"):
            from .secrets import Secrets

            self.secrets = Secrets(options, manifest["secrets"], manifest.get("secret_references"))
        self.scratch = make_scratch(options["out"])
        table = protocol.CHECKPOINT + (protocol.SEALED if "seal" in options else "")
        if manifest.get("checkpoint") and os.path.exists(os.path.join(options["in"], table)):
            from .snapshots import Snapshots

            try:
                self.snapshots = Snapshots.take(options, self.scratch)
            except StepError:
                remove_tree(self.scratch)
                raise

    def start(self) -> None:
        """Start the helper threads. Called in the parent, after the fork."""
        if self.secrets is not None:
            self.secrets.start()
        if self.snapshots is not None:
            self.snapshots.start()

    def finish(self, code: int) -> None:
        """Save the checkpoint of a step that did not succeed, and remove the step's folders.

        Called in the parent, after the receipt was written.
        """
        if self.snapshots is not None:
            self.snapshots.finish(is_wanted=code != protocol.EXIT_OK)
        remove_tree(self.scratch)
        remove_tree(modules_folder(self.scratch))


# -- fork and wait -------------------------------------------------------------------------------------------


def _wait(
    pid: int, meter: Meter, helpers: _Helpers, options: dict[str, str]
) -> tuple[int, struct_rusage, list[int], TimeLimit]:
    """Wait for the child and reap orphans.

    :return: the child's exit status, its resource usage, the signals forwarded to it, and its time limit
    """
    forwarded: list[int] = []
    alarm, limit = Alarm(), TimeLimit(float(options["timeout"]), float(options["grace"]))
    limit.watch(pid, alarm)
    meter.watch(pid, alarm)
    helpers.start()

    def forward(signum: int, frame: object) -> None:
        forwarded.append(signum)
        quietly(os.kill, pid, signum)

    for signum in _FORWARDED:
        signal.signal(signum, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        found, status, rusage = os.wait4(-1, 0)
        if found == pid:
            break
    alarm.stop()
    # From here on the parent only writes. A signal in between would leave the job without a receipt
    for signum in _FORWARDED:
        signal.signal(signum, signal.SIG_IGN)
    meter.stop()
    if helpers.secrets is not None:
        helpers.secrets.finish()
    return status, rusage, forwarded, limit


def _fork() -> int:
    """Fork a child that is killed when the parent dies. The parent holds the lifeline pipe's writing end."""
    parent = os.getpid()
    lifeline, other_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(other_end)
        _die_with(parent, lifeline)
    else:
        os.close(lifeline)
        phase("step's process forked")
    return pid


def _hear_signals() -> None:
    """Let the step receive both signals, also if the caller ignores them (a shell in the background does)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)


def _die_with(parent: int, lifeline: int) -> None:
    """Let the kernel kill this process and its process group when the parent dies. Linux only.

    :param lifeline: the reading end of a pipe whose writing end only the parent holds. When the parent dies,
        the pipe is closed and the kernel sends SIGKILL (fcntl(2), F_SETSIG). prctl(2) has an option for this,
        but it needs ctypes, and importing ctypes takes longer than the rest of the start
    """
    try:
        import fcntl

        os.setpgid(0, 0)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined, unused-ignore]
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except (ImportError, AttributeError, OSError):
        return  # not Linux
    if os.getppid() != parent:
        os.kill(0, signal.SIGKILL)


def _child(
    options: dict[str, str],
    manifest: Manifest,
    helpers: _Helpers,
    sender: int,
    meter: Meter,
) -> int:
    if options["receipt"].startswith("fd:"):
        os.close(int(options["receipt"][3:]))  # the step must not be able to write a receipt

    def send(data: bytes) -> None:
        quietly(os.set_blocking, sender, False)
        quietly(os.write, sender, data)

    sys.argv[1:] = []  # options of the runner, not of the step
    if helpers.secrets is not None:
        helpers.secrets.enter()
    from .child import child_main
    from .step import Step

    step = Step(manifest, options, helpers.scratch, meter, helpers.secrets, helpers.snapshots)
    return child_main(step, send)


def _death(status: int, forwarded: list[int]) -> StepError:
    if os.WIFSIGNALED(status) or forwarded:
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return ended("The step's process", code, forwarded)
    code = os.WEXITSTATUS(status)
    return StepError(
        "user_error",
        f"The step's process ended with exit code {code} before the step returned",
        "something in the step calls os._exit(); return from the function, or raise",
        exit_code=code,
    )


# -- the outcome ---------------------------------------------------------------------------------------------


def _outcome(options: dict[str, str], nonce: str, receiver: int) -> tuple[bytes, bool] | None:
    """Return the child's outcome, and whether it is in the output folder; ``None`` when there is no outcome.

    :param receiver: the reading end of the pipe. A child that cannot write to the output folder sends its
        outcome; a child whose output folder is mounted sends the SHA-256
    :raises StepError: the outcome in the mounted folder is not the one that the child has written
    """
    found = [b"", b""]
    os.set_blocking(receiver, False)
    for index in (0, 1):
        try:
            if index:
                found[1] = os.read(receiver, 1 << 16)
            else:
                with open(os.path.join(options["out"], protocol.OUTCOME), "rb") as stream:
                    found[0] = stream.read()
        except OSError:
            continue
    if files.is_mounted:
        from .mounted import checked

        found[0] = checked(*found)
    for data in found:
        try:
            if json.loads(data)["nonce"] == nonce:
                return data, data is found[0]
        except (ValueError, KeyError, TypeError):
            continue  # there is no outcome, or it belongs to another job
    return None


def _own_outcome(
    options: dict[str, str], identity: tuple[str, str], error: StepError, used: Usage
) -> tuple[bytes, bool]:
    from .outcome import empty_outcome, write_outcome

    report(error.summary)
    outcome: Outcome = {**empty_outcome(*identity), "failure": error.to_json(), "usage": used}
    try:
        return write_outcome(options["out"], outcome), True
    except OSError as problem:
        report(f"outcome.json cannot be written: {problem}")
        return json.dumps(outcome).encode(), False
