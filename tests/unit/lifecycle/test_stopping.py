"""A cancelled job that needs long for its end: the wait holds no worker, and no other job starts early."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle import resubmitting, stopping
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.record import STATE_KEY, CallIdentity
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import Log, Request, load_record, save_record


class Deferred(BaseException):
    """Stands for Airflow's TaskDeferred, which ends a worker's session."""


def defer(pause_s):
    raise Deferred


@pytest.fixture
def session(hook, state, monkeypatch):
    """Return a function that makes a session; the worker itself waits for nothing."""
    monkeypatch.setattr(stopping, "IN_WORKER_S", 0.0)
    hook.ignores_cancel, hook.stop_limit_s = True, 1800.0

    def make(pause=defer, max_tries=1):
        return StepLifecycle(Request(hook, CallIdentity("k", max_tries, 0)), state, Log(), pause=pause)

    return make


def test_the_next_generation_waits_without_a_worker(hook, state, session):
    first = session().begin()
    with pytest.raises(Deferred):
        session(max_tries=2).begin()
    since = load_record(state).stop["since"]
    with pytest.raises(Deferred):
        session(max_tries=2).begin()
    assert load_record(state).stop["since"] == since, "the limit counts from the first cancel"
    assert hook.calls["submit"] == 1
    hook.end(first.id, JobState.CANCELLED)
    assert session(max_tries=2).begin() != first
    assert load_record(state).stop == {}


def test_a_job_that_never_ends_is_never_doubled(hook, state, session):
    session().begin()
    with pytest.raises(Deferred):
        session(max_tries=2).begin()
    record = load_record(state)
    save_record(state, replace(record, stop={**record.stop, "since": record.stop["since"] - 1801}))
    with pytest.raises(StepFailedError, match="could not be stopped within 1800 s"):
        session(max_tries=2).begin()
    assert hook.calls["submit"] == 1


def test_a_late_job_keeps_its_reason_while_it_ends(hook, session):
    first = session()
    handle = first.begin()
    with pytest.raises(Deferred):
        first.finish(handle, StopReason.START_TIMEOUT, "Pending: no capacity")
    resumed = session()
    assert resumed.ended_job() is None
    stopped = resumed.stopped_job()
    assert stopped == (handle, StopReason.START_TIMEOUT, "Pending: no capacity")
    hook.jobs[handle.id] = JobStatus(JobState.CANCELLED)
    failure = resumed.finish(*stopped).failure
    assert (failure.category, failure.native_reason) == (Category.START_TIMEOUT, "Pending: no capacity")
    assert resumed.stopped_job() is None


def test_a_job_that_is_not_stopped_has_no_reason(session):
    session().begin()
    again = session()
    assert again.ended_job() is None
    assert again.stopped_job() is None


def test_a_session_that_cannot_defer_does_not_wait_for_long(hook, session, monkeypatch):
    """After AirflowTaskTimeout the exception must leave the worker."""
    monkeypatch.setattr(stopping, "WITHOUT_PAUSE_S", 0.0)
    first = session(pytest.fail)
    first.begin()
    first.cancel(StopReason.EXECUTION_TIMEOUT)
    assert first.record.collected["failure"]["category"] == "timeout"


def test_a_worker_that_does_not_defer_waits_itself(hook, session):
    pauses = []

    def pause(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 3:
            hook.end(handle.id, JobState.CANCELLED)

    handle = session().begin()
    assert session(pause, max_tries=2).begin() != handle
    assert pauses == [stopping.PAUSE_S] * 3


@pytest.mark.parametrize("stop", [{"since": "now"}, {"reason": 1}, []])
def test_a_damaged_stop_is_refused(state, session, stop):
    session().begin()
    state.set(STATE_KEY, {**state.get(STATE_KEY), "stop": stop})
    with pytest.raises(IntegrityError):
        load_record(state)


# -- resubmissions


@pytest.mark.parametrize("most", [0, 1, 5])
def test_the_task_says_how_often_a_step_is_submitted_again(hook, new_try, preempted, most):
    lifecycle = new_try()
    lifecycle.request.max_resubmissions = most
    handle, count = lifecycle.begin(), 0
    while isinstance(handle, JobHandle):
        count += 1
        hook.end(handle.id, JobState.FAILED, failure=preempted)
        handle = lifecycle.resubmission(lifecycle.finish(handle, StopReason.FINISHED))
    assert count == most + 1


def test_after_an_hour_of_running_the_count_starts_anew(hook, state, new_try):
    lifecycle = new_try()
    lifecycle.request.max_resubmissions = 1
    handle = lifecycle.begin()
    gone = Failure(Category.PREEMPTED, "the machine was taken away")
    for ran_s in (5.0, 3600.0, 3600.0):
        hook.jobs[handle.id] = JobStatus(JobState.FAILED, gone, started_at=1000.0, finished_at=1000.0 + ran_s)
        handle = lifecycle.resubmission(lifecycle.finish(handle, StopReason.FINISHED))
        assert load_record(state).resubmissions == 1
    hook.jobs[handle.id] = JobStatus(JobState.FAILED, gone, started_at=1000.0, finished_at=1005.0)
    assert lifecycle.resubmission(lifecycle.finish(handle, StopReason.FINISHED)) is None


# -- several kinds of machine


def lost(hook, lifecycle, handle, category, reason=StopReason.FINISHED):
    """End the job, and return the handle of the next one."""
    if reason is StopReason.FINISHED:
        hook.end(handle.id, JobState.FAILED, failure=Failure(category, "no machine"))
    return lifecycle.resubmission(lifecycle.finish(handle, reason))


def test_the_next_kind_of_machine_is_asked_for(hook, state, new_try):
    """It counts as no resubmission; the job before is over by then. After the last kind comes the first."""
    log = Log()
    lifecycle = new_try(log=log)
    lifecycle.request.alternatives, lifecycle.request.max_resubmissions = ("H100", "A100-80GB", "L4"), 1
    handle = lifecycle.begin()
    asked = [load_record(state).alternative]
    for reason in (StopReason.START_TIMEOUT, *[StopReason.FINISHED] * 4):
        handle = lost(hook, lifecycle, handle, Category.NO_CAPACITY, reason)
        record = load_record(state)
        assert hook.running == [handle.id]
        asked.append((record.alternative, record.resubmissions))
    assert asked == [0, (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert lost(hook, lifecycle, handle, Category.NO_CAPACITY) is None
    assert any("H100 was not to be had, the next job asks for A100-80GB" in str(line) for line in log.lines)


def test_a_start_timeout_of_the_last_kind_ends_the_task(hook, new_try):
    lifecycle = new_try()
    lifecycle.request.alternatives = ("H100", "L4")
    handle = lost(hook, lifecycle, lifecycle.begin(), None, StopReason.START_TIMEOUT)
    collected = lifecycle.finish(handle, StopReason.START_TIMEOUT)
    assert lifecycle.resubmission(collected) is None
    assert collected.failure.category is Category.START_TIMEOUT


def test_after_a_preemption_the_kind_stays(hook, state, new_try):
    lifecycle = new_try()
    lifecycle.request.alternatives = ("H100", "L4")
    handle = lost(hook, lifecycle, lifecycle.begin(), Category.NO_CAPACITY)
    assert lost(hook, lifecycle, handle, Category.PREEMPTED) is not None
    assert load_record(state).alternative == 1


def test_a_new_try_begins_with_the_first_kind(hook, state, new_try):
    lifecycle = new_try()
    lifecycle.request.alternatives = ("H100", "L4")
    handle = lost(hook, lifecycle, lifecycle.begin(), Category.NO_CAPACITY)
    hook.end(handle.id, JobState.FAILED, failure=Failure(Category.USER_ERROR, "a mistake"))
    lifecycle.finish(handle, StopReason.FINISHED)
    new_try().begin()
    assert (load_record(state).generation, load_record(state).alternative) == (3, 0)


def test_the_pause_after_a_lack_of_capacity_has_a_limit():
    assert 900 <= resubmitting.capacity_pause(30.0, 9) <= 1800
    assert 3600 <= resubmitting.capacity_pause(7200.0, 3) <= 7200
