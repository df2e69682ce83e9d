"""Decides how a local job ended, and describes its failure. ``job.py`` calls it at the job's end.

The functions are pure. Standard library only.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.hooks.local.supervisor.state import CANCELLED, FAILED, SUCCEEDED
from airflow_stepop.runner.protocol import EXIT_NO_OUTCOME
from airflow_stepop.runner.sizes import shown_size

if TYPE_CHECKING:
    from airflow_stepop.runner.wire import Failure

# Reasons for which the supervisor ends a job
CANCEL_REASON, SHUTDOWN_REASON, TIMEOUT_REASON, MEMORY_REASON = "cancel", "shutdown", "timeout", "memory"

# Signals that another process sends. The other signals are crashes
OUTSIDE_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


class Ending(NamedTuple):  # to import dataclasses would take the supervisor 12 ms
    """The supervisor's observations of the runner's end.

    :param stopped: one of the reasons above if the supervisor ended the job, else ``None``
    :param exit_code: exit code of the runner; ``None`` if a signal killed it
    :param signal: name of the signal that killed the runner, or ``None``
    :param has_receipt: whether the runner reported an outcome
    :param step_signal: name of the signal that killed the step, according to the runner, or ``None``
    :param is_host_out_of_memory: whether the kernel killed a process of this host for lack of memory during
        the job
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
    """Return the job's last state and its failure, if it failed.

    The first that applies decides: a cancellation, a receipt of a success, another reason of the supervisor,
    a receipt of a failure, the runner's exit.
    """
    if end.stopped == CANCEL_REASON:
        return CANCELLED, None
    if end.has_receipt and end.exit_code == 0:
        return SUCCEEDED, None  # also if the step succeeded in the grace period after SIGTERM
    if end.stopped is not None:
        return FAILED, _stopped(end)
    if end.step_signal == "SIGKILL" and end.is_host_out_of_memory:
        return FAILED, _killed(end, end.step_signal)  # the runner does not know that the kernel sent it
    if end.has_receipt:
        return FAILED, None  # the outcome holds the failure
    return FAILED, _ended_without_outcome(end)


def _ended_without_outcome(end: Ending) -> Failure:
    if end.signal is not None:
        return _killed(end, end.signal)
    return {
        "category": "infra" if end.exit_code == EXIT_NO_OUTCOME else "user_error",
        "summary": f"the step's process ended with exit code {end.exit_code} and left no outcome",
        "exit_code": end.exit_code,
        "hint": "look at its last lines: something bypassed Python's exit (os._exit, exec, a library)",
    }


def _stopped(end: Ending) -> Failure:
    if end.stopped == TIMEOUT_REASON:
        timeout = human_seconds(end.timeout_s)
        return {
            "category": "timeout",
            "summary": f"the step ran longer than its timeout of {timeout} and was stopped",
            "hint": "raise timeout, or find out what the step waited for",
        }
    if end.stopped == MEMORY_REASON:
        used, limit = shown_size(end.peak_memory_bytes), shown_size(end.memory_limit_bytes or 0)
        return {
            "category": "oom",
            "summary": f"the step used {used} of memory, its limit is {limit}; it was killed",
            "hint": "raise ResourceSettings(memory=...)",
        }
    return told_to_stop()


def told_to_stop() -> Failure:
    return {
        "category": "infra",
        "summary": "the supervisor of the job was told to stop (SIGTERM)",
        "hint": "did the host shut down?",
    }


def _killed(end: Ending, name: str) -> Failure:
    if name == "SIGKILL" and end.is_host_out_of_memory:
        peak = shown_size(end.peak_memory_bytes)
        return {
            "category": "oom",
            "summary": f"the step was killed while this host was out of memory; it used {peak} at its peak",
            "native_reason": name,
            "hint": "set ResourceSettings(memory=...), run fewer steps at a time, or use a remote backend",
        }
    if name in OUTSIDE_SIGNALS:
        summary = f"the step's process was killed from outside ({name})"
        return {"category": "infra", "summary": summary, "native_reason": name}
    return {
        "category": "user_error",
        "summary": f"the step's process crashed ({name}) and left no outcome",
        "native_reason": name,
        "hint": "native code crashed: look at the last lines, or try another version of the library",
    }


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def human_seconds(value: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= 10 * length or (value >= length and value % length == 0):
            return f"{round(value / length, 1):g} {unit}"
    return f"{value:g} s"
