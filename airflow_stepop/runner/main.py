"""The parent process: checks the manifest, forks, waits, leaves a receipt whatever becomes of the child.

``python3 -u step.pyz run --in DIR --out DIR --digest SHA256 --receipt (FILE | fd:N | -)
[--receipt-limit BYTES] [--segments DIR] [--checkpoint DIR] [--timeout SECONDS] [--grace SECONDS]
[--linger SECONDS]``

It imports little, does nothing that the step can break, and may be process 1 of a container.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys

from . import protocol
from .alarm import Alarm, TimeLimit
from .drain import wait_until_read
from .failures import StepError, ended
from .files import make_scratch, quietly, remove_tree
from .manifest import read_manifest
from .meter import Meter
from .phases import phase
from .receipt import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .secrets import Secrets
    from .snapshots import Snapshots

_FORWARDED = (signal.SIGTERM, signal.SIGINT)


def main(argv: list[str]) -> int:
    """Run the step that the command line names; return the exit code of this process, parent or child."""
    try:
        options = _options(argv)
    except ValueError as error:
        sys.stderr.write(f"stepop: {error}\nusage: {' '.join((__doc__ or '``').split('``')[1].split())}\n")
        return protocol.EXIT_REFUSED
    meter = Meter()
    # Until there is a child to forward them to, signals wait: an outcome and a receipt are due in any case
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller that ignores it would leave us no exit status
    identity = os.environ.get(protocol.ENV_JOB, ""), os.environ.get(protocol.ENV_NONCE, "")
    try:
        # of an earlier attempt in the same folder
        quietly(os.unlink, os.path.join(options["out"], protocol.OUTCOME))
        manifest = read_manifest(options)
        identity = manifest["job"], manifest["nonce"]
        helpers = _Helpers(options, manifest)
    except StepError as error:
        for name in (protocol.SECRETS, protocol.CHECKPOINT):
            quietly(os.unlink, os.path.join(options["in"], name))
        return finish(options, _own_outcome(options, identity, error, {}), protocol.EXIT_REFUSED)

    receiver, sender = os.pipe()
    pid = _fork()
    if pid == 0:
        _hear_signals()
        os.close(receiver)
        return _child(options, manifest, helpers, sender, meter)
    os.close(sender)
    status, rusage, forwarded, limit = _wait(pid, meter, helpers, options)
    found = _outcome(options, manifest["nonce"], receiver)
    if found is None or (limit.is_over and json.loads(found[0])["status"] != "success"):
        why = limit.error() if limit.is_over else _death(status, forwarded)
        found = _own_outcome(options, identity, why, meter.usage(rusage))
    code = finish(options, found, os.WEXITSTATUS(status) if os.WIFEXITED(status) else None)
    helpers.finish(code)  # last: it may take long, and whoever stopped us may not wait
    wait_until_read(float(options["linger"]))
    return code


def leave(code: int) -> None:
    """End the process as Python does, threads and exit handlers included, without tearing its modules down.

    That takes milliseconds, and native libraries like to crash in it.
    """
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()  # as multiprocessing does
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:  # whatever the step left behind; the outcome is written
        quietly(os.write, 2, f"stepop: at exit: {type(error).__name__}\n".encode())
    os._exit(code)


def _options(argv: list[str]) -> dict[str, str]:
    required = {"in", "out", "digest", "receipt"}
    numbers = {"receipt-limit": str(protocol.RECEIPT_LIMIT), "timeout": "0", "grace": "0", "linger": "0"}
    known = {*required, *numbers, "segments", "checkpoint"}
    if argv[:1] != ["run"] or len(argv) % 2 == 0:
        raise ValueError("expected 'run' and options with values")
    options = dict(numbers)
    for name, value in zip(argv[1::2], argv[2::2]):
        if name[:2] != "--" or name[2:] not in known:
            raise ValueError(f"unknown option {name}")
        options[name[2:]] = value
    missing = required - set(options)
    if missing:
        raise ValueError(f"missing --{', --'.join(sorted(missing))}")
    options.setdefault("segments", options["out"])
    for name in {"in", "out", "segments", "checkpoint"} & set(options):  # the step may change its folder
        options[name] = os.path.abspath(options[name]) if options[name] != protocol.NOWHERE else ""
    int(options["receipt-limit"])
    list(map(float, (options["timeout"], options["grace"], options["linger"])))
    if options["receipt"].startswith("fd:"):
        int(options["receipt"][3:])
    elif options["receipt"] != "-":
        options["receipt"] = os.path.abspath(options["receipt"])
    return options


# -- before the fork -----------------------------------------------------------------------------------------


class _Helpers:
    """What stands beside the step, in both processes: its scratch folder, and what only some steps need.

    :raises StepError: something of it is missing
    """

    def __init__(self, options: dict[str, str], manifest: dict[str, Any]) -> None:
        self.secrets: Secrets | None = None
        self.snapshots: Snapshots | None = None
        if manifest.get("secrets"):
            from .secrets import Secrets

            self.secrets = Secrets(options["in"], manifest["secrets"])
        self.scratch = make_scratch(options["out"])
        if manifest.get("checkpoint") and os.path.exists(os.path.join(options["in"], protocol.CHECKPOINT)):
            from .snapshots import Snapshots

            try:
                self.snapshots = Snapshots.take(options["in"], self.scratch)
            except StepError:
                remove_tree(self.scratch)
                raise

    def start(self) -> None:
        """In the parent, once it has forked."""
        if self.secrets is not None:
            self.secrets.start()
        if self.snapshots is not None:
            self.snapshots.start()

    def finish(self, code: int) -> None:
        """In the parent, when the receipt is written: save and remove what the step has left."""
        if self.snapshots is not None:
            self.snapshots.finish(is_wanted=code != protocol.EXIT_OK)
        remove_tree(self.scratch)


# -- fork and wait -------------------------------------------------------------------------------------------


def _wait(
    pid: int, meter: Meter, helpers: _Helpers, options: dict[str, str]
) -> tuple[int, Any, list[int], TimeLimit]:
    """Wait for the child and reap orphans; return its status, its usage, its signals and its time limit."""
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
    # From here on we only write; being stopped half-way would leave no receipt
    for signum in _FORWARDED:
        signal.signal(signum, signal.SIG_IGN)
    meter.stop()
    if helpers.secrets is not None:
        helpers.secrets.finish()
    return status, rusage, forwarded, limit


def _fork() -> int:
    """Fork a child that dies with this process; its parent keeps the other end of its lifeline."""
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
    """The step hears both signals, also when our caller ignores them (a shell in its background)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)


def _die_with(parent: int, lifeline: int) -> None:
    """Have the kernel kill this process and its group when the parent is gone: nobody would wait for them.

    ``lifeline`` is the reading end of a pipe that only the parent holds open. Its end is a signal (fcntl(2),
    F_SETSIG); prctl(2) would do, and needs ctypes, which costs more than the rest of the start.
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
    manifest: dict[str, Any],
    helpers: _Helpers,
    sender: int,
    meter: Meter,
) -> int:
    if options["receipt"].startswith("fd:"):
        os.close(int(options["receipt"][3:]))  # nothing that the step runs may write to it

    def last_resort(outcome: dict[str, Any]) -> None:
        quietly(os.set_blocking, sender, False)
        quietly(os.write, sender, json.dumps(outcome).encode())

    sys.argv[1:] = []  # ours, not the step's
    if helpers.secrets is not None:
        helpers.secrets.enter()
    from .child import child_main
    from .step import Step

    step = Step(manifest, options, helpers.scratch, helpers.secrets, helpers.snapshots)
    return child_main(step, meter, last_resort)


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
    """Return the child's outcome, and whether it is in the output folder; ``None`` when there is none."""
    os.set_blocking(receiver, False)
    for is_written in (True, False):
        try:
            if is_written:
                with open(os.path.join(options["out"], protocol.OUTCOME), "rb") as stream:
                    data = stream.read()
            else:
                data = os.read(receiver, 1 << 16)
            if json.loads(data)["nonce"] == nonce:
                return data, is_written
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not there, or not ours
    return None


def _own_outcome(
    options: dict[str, str], identity: tuple[str, str], error: StepError, used: dict[str, Any]
) -> tuple[bytes, bool]:
    from .outcome import empty_outcome, write_outcome

    sys.stderr.write(f"stepop: {error.summary}\n")
    outcome = {**empty_outcome(*identity), "failure": error.to_json(), "usage": used}
    try:
        return write_outcome(options["out"], outcome), True
    except OSError as problem:
        sys.stderr.write(f"stepop: outcome.json cannot be written: {problem}\n")
        return json.dumps(outcome).encode(), False
