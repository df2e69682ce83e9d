"""The child process: runs the step, writes ``outcome.json``, and returns the exit code.

Called by the parent (:mod:`.main`) after the fork. Large modules are imported only here, so the parent stays
small. The parent also survives a crash of the step.
"""

from __future__ import annotations

import faulthandler
import os
import sys

from . import files, protocol
from .failures import RefusedError, StepError, plain
from .outcome import empty_outcome, write_outcome
from .phases import phase
from .step import FULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .step import Step
    from .wire import Failure, Outcome


def child_main(step: Step, send: Callable[[bytes], None]) -> int:
    """Run the step, write its outcome, return the exit code.

    :param send: sends a few bytes to the parent: a small outcome if the output folder cannot be written, and
        the SHA-256 of the outcome if the output folder is mounted
    """
    if _is_open(2):
        faulthandler.enable()  # after a crash of native code, the log shows the Python traceback
    outcome = run(step)
    failure = outcome["failure"]
    _restore_streams()
    outcome["usage"] = step.meter.usage()
    try:
        _write(step.out, outcome, send)
        phase("outcome written")
    except (OSError, StepError) as error:
        step.discard_segments()
        outcome = _small(outcome, error)
        failure = outcome["failure"]
        try:
            _write(step.out, outcome, send)
        except OSError:
            import json

            send(json.dumps(outcome).encode())
    if failure:
        _show(failure)
    if step.is_refused:
        return protocol.EXIT_REFUSED
    return protocol.EXIT_STEP_FAILED if outcome["failure"] else protocol.EXIT_OK


def _write(out: str, outcome: Outcome, send: Callable[[bytes], None]) -> None:
    data = write_outcome(out, outcome)
    if files.is_mounted:
        from .mounted import to_message

        send(to_message(data))


def run(step: Step) -> Outcome:
    """Run the step and return its outcome. An error of the step becomes a failure in the outcome."""
    outcome = empty_outcome(step.manifest["job"], step.manifest["nonce"])
    try:
        step.prepare()
        if step.manifest["kind"] == "command":
            from .command import run_command

            outcome["outputs"] = run_command(step)
            phase("outputs encoded")
        else:
            from .function import run_function
            from .imports import watch_imports

            watch_imports()
            outcome.update(run_function(step))  # type: ignore[typeddict-item] # mypy asks for all fields
        step.finish_segments()
        outcome["status"] = "success"
    except BaseException as error:  # the outermost frame around the user's code
        from .exception_data import failure_of

        step.leave_if_forked(error)
        step.discard_segments()
        step.is_refused = isinstance(error, RefusedError)
        outcome["failure"] = failure_of(error)
        if step.secrets is not None:
            outcome["failure"] = step.secrets.clean(outcome["failure"])
        phase("step failed")
    return outcome


def _show(failure: Failure) -> None:
    """Write the failure to the step's log: the traceback as Python prints it, and the runner's summary."""
    from .exception_data import print_exception

    if failure["exception"]:
        import json

        print_exception(json.loads(plain(json.dumps(failure["exception"]))))
    if not failure["exception"] or not failure["summary"].startswith("The step raised"):
        sys.stderr.write(f"stepop: {failure['summary']}\n")


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return sys.stderr is not None


def _small(outcome: Outcome, error: OSError | StepError) -> Outcome:
    """Return a small outcome with a failure, for when ``outcome`` could not be written."""
    failure = outcome["failure"] or _unwritten(error)
    small = empty_outcome(outcome["job"], outcome["nonce"])
    return {**small, "failure": {**failure, "exception": None}, "usage": outcome["usage"]}


def _unwritten(error: OSError | StepError) -> Failure:
    """Return the failure of a step whose outcome could not be written."""
    if isinstance(error, StepError):
        return error.to_json()
    hint = "give the step more disk, or return less" if error.errno in FULL else ""
    return StepError("infra", f"The step ran, but its outcome could not be written: {error}", hint).to_json()


def _restore_streams() -> None:
    """Flush the step's output, and reopen the descriptors 0, 1 and 2 if the step closed them.

    Otherwise the next file that the runner opens would get such a number and receive printed text.
    """
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib is an import more
            stream.flush()
        except Exception:  # noqa: S110 - the step may have put any object there
            pass
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    if getattr(sys.stderr, "closed", True):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
