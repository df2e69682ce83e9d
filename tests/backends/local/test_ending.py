"""The final state of a job and the message of its failure."""

from __future__ import annotations

import pytest

from airflow_stepop.failure import Failure
from airflow_stepop.hooks.local.supervisor.ending import Ending, final_state, human_seconds

QUIET = Ending(
    stopped=None,
    exit_code=0,
    signal=None,
    has_receipt=True,
    step_signal=None,
    is_host_out_of_memory=False,
    peak_memory_bytes=3 * 2**30,
    memory_limit_bytes=2 * 2**30,
    timeout_s=5400,
)

CASES = [
    ({}, "succeeded", None, ""),
    ({"exit_code": 1}, "failed", None, ""),
    ({"stopped": "cancel"}, "cancelled", None, ""),
    ({"exit_code": 1, "step_signal": "SIGKILL"}, "failed", None, ""),
    (
        {"exit_code": 1, "step_signal": "SIGKILL", "is_host_out_of_memory": True},
        "failed",
        "oom",
        "the step was killed while this host was out of memory; it used 3 GiB at its peak",
    ),
    ({"stopped": "timeout"}, "succeeded", None, ""),  # finished within the grace period
    (
        {"stopped": "timeout", "exit_code": 1},
        "failed",
        "timeout",
        "the step ran longer than its timeout of 90 min and was stopped",
    ),
    (
        {"stopped": "memory", "exit_code": None, "signal": "SIGKILL", "has_receipt": False},
        "failed",
        "oom",
        "the step used 3 GiB of memory, its limit is 2 GiB; it was killed",
    ),
    (
        {"stopped": "shutdown", "exit_code": 1},
        "failed",
        "infra",
        "the supervisor of the job was told to stop (SIGTERM)",
    ),
    (
        {"exit_code": None, "signal": "SIGKILL", "has_receipt": False, "is_host_out_of_memory": True},
        "failed",
        "oom",
        "the step was killed while this host was out of memory; it used 3 GiB at its peak",
    ),
    (
        {"exit_code": None, "signal": "SIGKILL", "has_receipt": False},
        "failed",
        "infra",
        "the step's process was killed from outside (SIGKILL)",
    ),
    (
        {"exit_code": None, "signal": "SIGSEGV", "has_receipt": False},
        "failed",
        "user_error",
        "the step's process crashed (SIGSEGV) and left no outcome",
    ),
    (
        {"exit_code": 0, "has_receipt": False},
        "failed",
        "user_error",
        "the step's process ended with exit code 0 and left no outcome",
    ),
    (
        {"exit_code": 74, "has_receipt": False},
        "failed",
        "infra",
        "the step's process ended with exit code 74 and left no outcome",
    ),
]


@pytest.mark.parametrize(("seen", "state", "category", "summary"), CASES)
def test_final_state(seen: dict, state: str, category: str | None, summary: str) -> None:
    """A stop by the supervisor counts first, then the receipt, then the exit code."""
    found, failure = final_state(QUIET._replace(**seen))
    assert found == state
    if category is None:
        assert failure is None
    else:
        assert failure is not None
        described = Failure.from_json(failure)
        assert (described.category.value, described.summary) == (category, summary)


def test_numbers_have_units_for_people() -> None:
    """The unit fits the size of the number."""
    assert [human_seconds(n) for n in (1.5, 599, 600, 86400)] == ["1.5 s", "599 s", "10 min", "24 h"]
