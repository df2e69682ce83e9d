"""How a local job ended, in words: pure functions of what its supervisor saw. Standard library only."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.hooks.local.supervisor.state import CANCELLED, FAILED, SUCCEEDED
from airflow_stepop.runner.protocol import EXIT_NO_OUTCOME

if TYPE_CHECKING:
    from airflow_stepop.runner.wire import Failure

# why a supervisor ends a job by itself
CANCEL_REASON, SHUTDOWN_REASON, TIMEOUT_REASON, MEMORY_REASON = "cancel", "shutdown", "timeout", "memory"

# signals that somebody sends; the others are crashes
OUTSIDE_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


class Ending(NamedTuple):  # a dataclass would cost the supervisor 12 ms of imports
    """What was seen of the runner's end.

    :param stopped: why the supervisor ended it, if it did
    :param signal: the signal that killed the runner, or ``None``
    :param has_receipt: the runner has reported an outcome
    :param step_signal: the signal that killed the step, as the runner saw it
    :param is_host_out_of_memory: the kernel has killed for memory during the job
    """

    stopped: str | None
    exit_code: int | None
    signal: str | None
    has_receipt: bool
    step_signal: str | None
    is_host_out_of_memory: bool
    peak_memory_bytes: int
    memory_limit_bytes: int | None
    timeout_s: float


def final_state(end: Ending) -> tuple[str, Failure | None]:
    """Return the job's last state and its failure: our own reason first, then the receipt, then the exit."""
    if end.stopped == CANCEL_REASON:
        return CANCELLED, None
    if end.has_receipt and end.exit_code == 0:
        return SUCCEEDED, None  # also when it made it within the grace period
    if end.stopped is not None:
        return FAILED, _stopped(end)
    if end.step_signal == "SIGKILL" and end.is_host_out_of_memory:
        return FAILED, _killed(end, end.step_signal)  # the runner can only guess who it was
    if end.has_receipt:
        return FAILED, None  # the outcome says why
    return FAILED, _ended_without_outcome(end)


def _ended_without_outcome(end: Ending) -> Failure:
    if end.signal is not None:
        return _killed(end, end.signal)
    category = "infra" if end.exit_code == EXIT_NO_OUTCOME else "user_error"
    return failure(
        category,
        f"the step's process ended with exit code {end.exit_code} and left no outcome",
        exit_code=end.exit_code,
        hint="look at its last lines: something ended the process around Python (os._exit, exec, a library)",
    )


def failure(category: str, summary: str, **more: object) -> Failure:
    """Return a :class:`airflow_stepop.failure.Failure` as JSON."""
    return {"category": category, "summary": summary, **more}  # type: ignore[typeddict-item] # further fields


def _stopped(end: Ending) -> Failure:
    if end.stopped == TIMEOUT_REASON:
        return failure(
            "timeout",
            f"the step ran longer than its timeout of {human_seconds(end.timeout_s)} and was stopped",
            hint="raise timeout, or find out what it waited for",
        )
    if end.stopped == MEMORY_REASON:
        used, limit = human_bytes(end.peak_memory_bytes), human_bytes(end.memory_limit_bytes or 0)
        return failure(
            "oom",
            f"the step used {used} of memory, its limit is {limit}; it was killed",
            hint="raise ResourceSettings(memory=...)",
        )
    return told_to_stop()


def told_to_stop() -> Failure:
    return failure(
        "infra", "the supervisor of the job was told to stop (SIGTERM)", hint="did the host shut down?"
    )


def _killed(end: Ending, name: str) -> Failure:
    if name == "SIGKILL" and end.is_host_out_of_memory:
        return failure(
            "oom",
            "the step was killed while this host was out of memory; "
            f"it used {human_bytes(end.peak_memory_bytes)} at its peak",
            native_reason=name,
            hint="set ResourceSettings(memory=...), run fewer steps at a time, or use a remote backend",
        )
    if name in OUTSIDE_SIGNALS:
        return failure("infra", f"the step's process was killed from outside ({name})", native_reason=name)
    return failure(
        "user_error",
        f"the step's process crashed ({name}) and left no outcome",
        native_reason=name,
        hint="native code crashed: look at the last lines, or try another version of the library",
    )


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def human_seconds(value: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= 10 * length or (value >= length and value % length == 0):
            return f"{round(value / length, 1):g} {unit}"
    return f"{value:g} s"
