"""An outcome that can be read a little later than the end of its job is seen."""

from __future__ import annotations

import time

import pytest

from airflow_stepop.exceptions import OutcomeNotReadyError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.record import CallIdentity
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import Log, Request, load_record

DONE = {"result": {"value": {"plain": 1}}}
MISSING = "outcome.json is not in s3://bucket/results yet"


class Deferred(BaseException):
    """Stands for Airflow's TaskDeferred, which ends a worker's session."""


@pytest.fixture
def late(hook):
    """The outcome of every job is not there, until the test calls the returned function."""
    outcome, retry_after_s = hook.outcome, [None]

    def not_yet(handle):
        hook.calls["outcome"] += 1
        raise OutcomeNotReadyError(MISSING, retry_after_s[0])

    def arrive():
        hook.outcome = outcome

    hook.outcome, arrive.retry_after_s = not_yet, retry_after_s
    return arrive


@pytest.fixture
def session(hook, state):
    """Return a function that makes a lifecycle with a pause of the test."""

    def make(pause, keep="failed"):
        request = Request(hook, CallIdentity("k", 1, 0))
        request.keep = keep
        return StepLifecycle(request, state, Log(), pause=pause)

    return make


def ended(hook, handle, state=JobState.SUCCEEDED, *, at, failure=None):
    hook.end(handle.id, state, DONE)
    hook.jobs[handle.id] = JobStatus(state, failure, finished_at=at)


def test_an_outcome_that_comes_late_is_waited_for(hook, late, session):
    pauses = []

    def pause(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 3:
            late()

    lifecycle = session(pause)
    handle = lifecycle.begin()
    ended(hook, handle, at=time.time() - 20)
    assert lifecycle.finish(handle, StopReason.FINISHED).data["result"] == DONE["result"]
    assert pauses == pytest.approx([20, 20, 20], abs=2), "as long as the job has been over"


def test_a_hook_may_choose_the_pause(hook, late, session):
    pauses = []
    late.retry_after_s[0] = 7.0
    lifecycle = session(lambda pause_s: (pauses.append(pause_s), late()))
    handle = lifecycle.begin()
    ended(hook, handle, at=time.time())
    lifecycle.finish(handle, StopReason.FINISHED)
    assert pauses == [7.0]


def test_the_wait_needs_no_worker(hook, late, session):
    """The pause defers the task: the session ends, and a later one finds the ended job in the record."""

    def defer(pause_s):
        raise Deferred

    lifecycle = session(defer)
    handle = lifecycle.begin()
    assert session(defer).ended_job() is None, "the job runs"
    ended(hook, handle, at=time.time() - 20)
    with pytest.raises(Deferred):
        lifecycle.finish(handle, StopReason.FINISHED)
    resumed = session(defer)
    assert resumed.ended_job() == handle
    with pytest.raises(Deferred):
        resumed.finish(handle, StopReason.FINISHED)
    late()
    resumed = session(defer)
    assert resumed.finish(resumed.ended_job(), StopReason.FINISHED).failure is None
    assert session(defer).ended_job() is None, "its outcome is collected"
    assert hook.calls["submit"] == 1


@pytest.mark.parametrize("keep", ["never", "failed", "always"])
def test_after_fifteen_minutes_the_job_is_kept_and_the_step_never_runs_again(
    hook, state, late, session, keep
):
    lifecycle = session(pytest.fail, keep)
    handle = lifecycle.begin()
    ended(hook, handle, at=time.time() - 901)
    collected = lifecycle.finish(handle, StopReason.FINISHED)
    failure = collected.failure
    assert failure.category is Category.INFRA
    assert failure.summary.startswith("the step succeeded at ")
    assert failure.summary.endswith(f"its outcome did not come within 15 minutes: {MISSING}")
    assert "the step is not run again by itself; the job is kept" in failure.hint
    assert failure.has_succeeded
    assert lifecycle.resubmission(collected) is None
    assert isinstance(session(pytest.fail, keep).begin(), Collected)
    assert handle.id in hook.jobs
    assert load_record(state).keep == "always", "sweep keeps it, too"
    assert hook.calls["submit"] == 1


def test_without_a_time_of_the_service_the_first_sight_of_the_end_counts(hook, late, session):
    lifecycle = session(pytest.fail)
    handle = lifecycle.begin()
    lifecycle.note_end(JobStatus(JobState.SUCCEEDED, finished_at=time.time() - 901))
    hook.jobs[handle.id] = JobStatus(JobState.SUCCEEDED)
    assert lifecycle.finish(handle, StopReason.FINISHED).failure.category is Category.INFRA


def test_the_clock_of_a_service_may_be_wrong(hook, late, session):
    """A job that ended in a far future must not be waited for until then."""
    lifecycle = session(pytest.fail)
    handle = lifecycle.begin()
    ended(hook, handle, at=time.time() + 86_400)
    assert lifecycle.finish(handle, StopReason.FINISHED).failure.category is Category.INFRA


def test_a_failure_that_the_service_knows_is_reported_without_its_outcome(hook, late, session):
    oom = Failure(Category.OOM, "used 2 GiB of 1 GiB")
    lifecycle = session(pytest.fail)
    handle = lifecycle.begin()
    ended(hook, handle, JobState.FAILED, at=time.time() - 901, failure=oom)
    assert lifecycle.finish(handle, StopReason.FINISHED).failure == oom


def test_a_failed_step_without_its_outcome_may_run_again(hook, late, session):
    lifecycle = session(pytest.fail)
    handle = lifecycle.begin()
    ended(hook, handle, JobState.FAILED, at=time.time() - 901)
    failure = lifecycle.finish(handle, StopReason.FINISHED).failure
    assert failure.category is Category.INFRA
    assert not failure.has_succeeded
    assert isinstance(session(pytest.fail).begin(), JobHandle)
    assert hook.calls["submit"] == 2


def test_a_new_try_attaches_to_a_job_whose_outcome_is_not_there_yet(hook, late, session):
    handle = session(pytest.fail).begin()
    ended(hook, handle, JobState.FAILED, at=time.time())
    again = session(lambda _: late())
    assert again.begin() == handle
    assert again.has_found_end
    assert again.finish(handle, StopReason.FINISHED).failure is None
