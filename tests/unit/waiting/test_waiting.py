"""Deadlines and pauses."""

from __future__ import annotations

import pytest

from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.waiting.backoff import Backoff
from airflow_stepop.waiting.deadlines import Deadlines, StopReason

RUNNING = JobStatus(JobState.RUNNING, started_at=100.0)
PENDING = JobStatus(JobState.PENDING)


@pytest.mark.parametrize(
    ("status", "now", "reason"),
    [
        (None, 999.0, None),
        (PENDING, 149.0, None),
        (PENDING, 151.0, StopReason.START_TIMEOUT),
        (RUNNING, 151.0, None),
        (RUNNING, 199.0, None),
        (RUNNING, 201.0, StopReason.OVERDUE),
        (JobStatus(JobState.SUCCEEDED), 10_000.0, StopReason.FINISHED),
        (JobStatus(JobState.GONE), 10_000.0, StopReason.FINISHED),
    ],
)
def test_when_waiting_is_over(status, now, reason):
    assert Deadlines(execution=None, start=150.0, run_s=100.0).reason(status, now) is reason


@pytest.mark.parametrize(("now", "reason"), [(451.0, StopReason.START_TIMEOUT), (449.0, None)])
def test_a_job_that_waits_again_gets_its_start_timeout_again(now, reason):
    status = JobStatus(JobState.PENDING, waits_since=400.0)
    deadlines = Deadlines(start=150.0, start_s=50.0)
    assert deadlines.reason(status, now) is reason
    assert deadlines.next_after(status, 440.0) == 10.0


def test_the_execution_timeout_needs_no_status():
    """The timeout applies even while the service's API cannot be reached."""
    assert Deadlines(execution=50.0).reason(None, 51.0) is StopReason.EXECUTION_TIMEOUT


def test_a_job_that_ended_in_time_is_not_late():
    assert Deadlines(execution=50.0).reason(JobStatus(JobState.FAILED), 51.0) is StopReason.FINISHED


@pytest.mark.parametrize(
    ("status", "now", "left_s"),
    [
        (None, 10.0, 40.0),
        (PENDING, 60.0, 90.0),
        (RUNNING, 160.0, 40.0),
        (RUNNING, 201.0, None),
        (JobStatus(JobState.RUNNING), 160.0, None),
    ],
)
def test_the_next_time_to_look_is_that_of_the_next_deadline(status, now, left_s):
    assert Deadlines(execution=50.0, start=150.0, run_s=100.0).next_after(status, now) == left_s


def test_no_step_began_before_it_was_submitted():
    """The clock of the step's machine may be behind."""
    status = JobStatus(JobState.RUNNING, started_at=100.0)
    deadlines = Deadlines(run_s=60.0, submitted=1000.0)
    assert deadlines.reason(status, 1059.0) is None
    assert deadlines.reason(status, 1061.0) is StopReason.OVERDUE


def test_deadlines_survive_json():
    deadlines = Deadlines(1.0, None, 3.0)
    assert Deadlines.from_json(deadlines.to_json()) == deadlines
    assert Deadlines.from_json({**deadlines.to_json(), "of_a_newer_version": 1}) == deadlines


def test_the_first_polls_are_frequent_and_later_ones_are_not():
    backoff = Backoff(5.0)
    pauses = [backoff.after_success() for _ in range(30)]
    assert pauses[0] <= 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0


def test_errors_back_off_with_jitter_up_to_a_limit():
    backoff = Backoff(1.0)
    pauses = [backoff.after_error() for _ in range(20)]
    assert 1.0 <= pauses[0] <= 2.0
    assert max(pauses) <= Backoff.LONGEST_S
    assert min(pauses[10:]) >= Backoff.LONGEST_S / 2
    backoff.after_success()
    assert backoff.errors == 0
