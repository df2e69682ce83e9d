"""A job whose end was seen, and that is gone before its outcome is read.

A step that has succeeded never runs again by itself.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.failures import without_outcome
from airflow_stepop.record import STATE_KEY, StepRecord, signed
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import LABELS, load_record

AT = 1_780_000_000.0
SUCCEEDED = JobStatus(JobState.SUCCEEDED, native="Complete", finished_at=AT)
TEXT = "the step succeeded at 2026-05-28 20:26:40 UTC, but its outcome cannot be read: there is none"
ADVICE = "the step is not run again by itself; clear the task to run it again"
OOM = Failure(Category.OOM, "used 2 GiB of 1 GiB", "OOMKilled", 137)


@pytest.fixture
def seen(hook, new_try):
    """Return a function: a first try's job ends, a process sees that, the job goes, and the try is killed."""

    def see(end=SUCCEEDED):
        lifecycle = new_try()
        handle = lifecycle.begin()
        lifecycle.note_end(end)
        hook.jobs.clear()
        return handle

    return see


def reported(lifecycle):
    """Begin a try that finds a job at its end, and return the failure that the try reports."""
    begun = lifecycle.begin()
    if isinstance(begun, JobHandle):
        assert lifecycle.has_found_end
        begun = lifecycle.finish(begun, StopReason.FINISHED)
    return begun.failure


def test_a_success_without_an_outcome_is_final(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.jobs[handle.id] = SUCCEEDED
    collected = lifecycle.finish(handle, StopReason.FINISHED)
    failure = collected.failure
    assert (failure.category, failure.summary, failure.hint) == (Category.LOST, TEXT, ADVICE)
    assert failure.has_succeeded
    assert lifecycle.resubmission(collected) is None
    assert hook.calls["submit"] == 1


def test_a_success_that_nobody_saw_is_final_without_an_outcome(hook, new_try):
    handle = new_try().begin()
    hook.jobs[handle.id] = SUCCEEDED
    assert reported(new_try()).summary == TEXT
    assert hook.calls["submit"] == 1


def test_a_job_that_is_gone_after_its_success_was_seen_is_final(hook, new_try, seen):
    seen()
    failure = reported(new_try())
    assert (failure.category, failure.summary, failure.hint) == (Category.LOST, TEXT, ADVICE)
    assert hook.calls["submit"] == 1


def test_every_further_try_reports_the_same_failure(hook, new_try, seen):
    """The task's own retries, or a worker that is killed after it has saved the failure."""
    seen()
    first = reported(new_try())
    for _ in range(3):
        again = new_try().begin()
        assert isinstance(again, Collected)
        assert again.failure == first
    assert hook.calls["submit"] == 1


@pytest.mark.parametrize("change", [{"max_tries": 2}, {"clear_number": 1}, {"key": "other"}])
@pytest.mark.parametrize("is_collected", [True, False])
def test_a_cleared_or_changed_step_runs_again(hook, new_try, seen, change, is_collected):
    seen()
    if is_collected:
        reported(new_try())
    assert isinstance(new_try(**change).begin(), JobHandle)
    assert len(hook.running) == 1


@pytest.mark.parametrize(
    "later",
    [
        JobStatus(JobState.RUNNING, native="Terminating"),
        JobStatus(JobState.PENDING),
        JobStatus(JobState.FAILED, Failure(Category.PREEMPTED, "the pod was deleted"), finished_at=AT + 9),
        JobStatus(JobState.FAILED, Failure(Category.INFRA, "state.json is damaged")),
        JobStatus(JobState.CANCELLED),
    ],
    ids=lambda status: status.state.value,
)
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_success_counts_whatever_the_service_says_later(hook, new_try, seen, later, is_killed):
    handle = seen()
    hook.jobs[handle.id] = later
    lifecycle = new_try()
    if is_killed:
        assert reported(lifecycle).summary == TEXT
    else:
        collected = lifecycle.finish(lifecycle.resume(), StopReason.FINISHED)
        assert collected.failure.summary == TEXT
        assert lifecycle.resubmission(collected) is None
    assert hook.calls["submit"] == 1


def test_an_outcome_that_is_there_counts_after_all(hook, new_try, seen):
    handle = seen()
    hook.end(handle.id, JobState.FAILED, {"result": 7}, Failure(Category.PREEMPTED, "the pod was deleted"))
    del hook.jobs[handle.id]
    lifecycle = new_try()
    assert lifecycle.finish(lifecycle.begin(), StopReason.FINISHED).data["result"] == 7


@pytest.mark.parametrize("ended", [JobState.SUCCEEDED, JobState.FAILED])
def test_a_refused_outcome_of_a_success_is_final(hook, new_try, ended):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, ended, {"result": 7})

    def refuse(report, job, nonce):
        raise IntegrityError("its bytes changed")

    lifecycle.request.read = refuse
    failure = lifecycle.finish(handle, StopReason.FINISHED).failure
    assert (failure.category, failure.has_succeeded) == (Category.INFRA, ended is JobState.SUCCEEDED)
    assert isinstance(new_try().begin(), Collected if failure.has_succeeded else JobHandle)


@pytest.mark.parametrize("reason", [StopReason.START_TIMEOUT, StopReason.OVERDUE])
def test_a_success_that_seemed_late_is_final(hook, new_try, reason):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.jobs[handle.id] = SUCCEEDED
    assert lifecycle.finish(handle, reason).failure.summary == TEXT


def test_the_end_is_saved_before_the_outcome_is_read(hook, state, new_try):
    """The worker is killed in between."""
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.jobs[handle.id] = JobStatus(JobState.SUCCEEDED)

    def killed(_):
        raise SystemExit

    hook.outcome, outcome = killed, hook.outcome
    with pytest.raises(SystemExit):
        lifecycle.finish(handle, StopReason.FINISHED)
    end = load_record(state).end
    assert end.state is JobState.SUCCEEDED
    assert end.finished_at is not None, "without a time of the service, it is when the end was seen"
    hook.outcome = outcome
    hook.jobs.clear()
    assert reported(new_try()).has_succeeded


@pytest.mark.parametrize("at", [None, -1e17, 2.0**62])
def test_a_time_that_no_calendar_has_is_left_out(at):
    failure = without_outcome(replace(SUCCEEDED, finished_at=at), OutcomeLostError("there is none"))
    assert failure.summary == "the step succeeded, but its outcome cannot be read: there is none"


def test_a_first_sight_of_the_end_stays(state, seen):
    seen()
    assert load_record(state).end == SUCCEEDED


def test_a_failure_that_was_seen_is_reported_when_the_job_is_gone(hook, new_try, seen):
    seen(JobStatus(JobState.FAILED, OOM, "OOMKilled", finished_at=AT))
    failure = reported(new_try())
    assert replace(failure, log_tail=()) == OOM
    assert hook.calls["submit"] == 1


def test_a_cancellation_that_was_seen_is_reported_when_the_job_is_gone(new_try, seen):
    seen(JobStatus(JobState.CANCELLED))
    lifecycle = new_try()
    assert lifecycle.finish(lifecycle.resume(), StopReason.FINISHED).failure.category is Category.CANCELLED


def test_a_failure_without_a_reason_is_lost_when_the_job_is_gone(hook, new_try, seen):
    """Only the outcome knew the reason. Such a step runs again, as without the knowledge of its end."""
    seen(JobStatus(JobState.FAILED, finished_at=AT))
    lifecycle = new_try()
    failure = lifecycle.finish(lifecycle.resume(), StopReason.FINISHED).failure
    assert failure.category is Category.LOST
    assert failure.summary == "the job failed at 2026-05-28 20:26:40 UTC and left no outcome: there is none"
    assert not failure.has_succeeded
    assert isinstance(new_try().begin(), JobHandle)
    assert hook.calls["submit"] == 2


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_machine_that_was_taken_away_is_replaced_when_the_job_is_gone(
    hook, new_try, seen, preempted, is_killed
):
    seen(JobStatus(JobState.FAILED, preempted))
    lifecycle = new_try()
    if is_killed:
        assert isinstance(lifecycle.begin(), JobHandle)
    else:
        collected = lifecycle.finish(lifecycle.resume(), StopReason.FINISHED)
        assert isinstance(lifecycle.resubmission(collected), JobHandle)
    assert hook.calls["submit"] == 2


def test_what_the_service_learns_later_about_a_failure_counts(hook, new_try, seen):
    """Some services know the reason only a minute after the end."""
    handle = seen(JobStatus(JobState.FAILED))
    hook.jobs[handle.id] = JobStatus(JobState.FAILED, OOM)
    assert reported(new_try()).category is Category.OOM


def test_an_end_belongs_to_its_generation(hook, state, new_try, seen):
    seen()
    new_try(max_tries=2).begin()
    assert load_record(state).generation == 2
    assert load_record(state).end is None


@pytest.mark.parametrize("end", [SUCCEEDED, JobStatus(JobState.FAILED, OOM, "OOMKilled", 1.0, 2.0), None])
def test_a_record_keeps_an_end(state, new_try, end):
    new_try().begin()
    record = replace(load_record(state), end=end)
    assert StepRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_record_of_an_older_version_has_no_end(state, new_try):
    handle = new_try().begin()
    data = state.get(STATE_KEY)
    del data["end"]
    state.set(STATE_KEY, signed(data, LABELS))
    assert load_record(state).end is None
    assert new_try().begin() == handle


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("succeeded", "the record has end='succeeded', which is not an object or nothing"),
        ({}, "a job's end has no 'state'"),
        ({"state": "done"}, "a job's end has state='done', which is not one of succeeded, failed, cancelled"),
        ({"state": "running"}, "a job's end has state='running', which is not one of succeeded"),
        ({"state": "gone"}, "a job's end has state='gone', which is not one of succeeded"),
        ({"state": "failed", "failure": {}}, "a failure has no 'category'"),
        ({"state": "failed", "finished_at": "now"}, "finished_at='now', which is not a number or nothing"),
    ],
)
def test_a_damaged_end_is_refused(state, new_try, end, words):
    new_try().begin()
    state.set(STATE_KEY, {**state.get(STATE_KEY), "end": end})
    with pytest.raises(IntegrityError, match=words):
        load_record(state)


def test_an_end_is_short_enough_for_the_state(state, new_try):
    lifecycle = new_try()
    lifecycle.begin()
    lifecycle.note_end(JobStatus(JobState.FAILED, replace(OOM, log_tail=("x" * 1000,) * 1000)))
    assert len(json.dumps(state.get(STATE_KEY))) < 64_000
