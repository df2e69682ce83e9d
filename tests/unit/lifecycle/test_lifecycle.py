"""The rules of a step's life, one by one; the kill tests run them in a real Airflow."""

from __future__ import annotations

import errno
import itertools
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import IntegrityError, WrongHostError
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.lifecycle import lifecycle as lifecycle_module
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.options import MAX_RESUBMISSIONS
from airflow_stepop.record import ResumeDecision, StepRecord, resume_decision
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import load_record

DONE = {"result": {"value": {"plain": 1}}}


def finished(hook, lifecycle, value=DONE):
    handle = lifecycle.begin()
    hook.end(handle.id, value=value)
    return handle, lifecycle.finish(handle, StopReason.FINISHED)


def test_the_record_is_written_before_anything_exists_outside(hook, state, new_try):
    hook.error = ConnectionError("the service is down")
    with pytest.raises(ConnectionError):
        new_try().begin()
    record = load_record(state)
    assert record.generation == 1
    assert record.handle is None
    assert hook.jobs == {}


def test_a_record_survives_its_json(new_try, hook, state):
    new_try().begin()
    record = load_record(state)
    assert StepRecord.from_json(record.to_json()) == record
    assert StepRecord.from_json({**record.to_json(), "added_later": 1}) == record


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_record_that_cannot_be_saved_costs_a_try_and_nothing_else(
    hook, state, new_try, monkeypatch, number
):
    """The disk of Airflow's database is full when a record is to be saved, and has room for the next try."""
    save, calls = state.set, itertools.count(1)

    def set_unless_full(key, value):
        if next(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(key, value)

    monkeypatch.setattr(state, "set", set_unless_full)

    def whole_try():
        lifecycle = new_try()
        begun = lifecycle.begin()
        if isinstance(begun, Collected):
            return begun
        hook.end(begun.id, value=DONE)
        return lifecycle.finish(begun, StopReason.FINISHED)

    with pytest.raises(OSError, match="No space left"):
        whole_try()
    assert whole_try().data["result"] == DONE["result"]
    assert hook.calls["submit"] == 1
    assert hook.running == []


def test_a_lost_answer_is_looked_up_and_not_submitted_again(hook, new_try):
    hook.fails_after_submit = True
    with pytest.raises(ConnectionResetError):
        new_try().begin()
    hook.fails_after_submit = False
    handle = new_try().begin()
    assert hook.calls["submit"] == 1
    assert hook.running == [handle.id]


def test_a_submit_that_never_arrived_goes_on_under_the_same_name(hook, state, new_try):
    hook.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        new_try().begin()
    intended = load_record(state).name
    hook.error = None
    assert new_try().begin().name == intended
    assert load_record(state).generation == 1


def test_a_retry_attaches_to_the_running_job(hook, new_try):
    first = new_try().begin()
    assert new_try().begin() == first
    assert hook.calls["submit"] == 1


@pytest.mark.parametrize("change", [{"max_tries": 2}, {"clear_number": 1}, {"key": "other"}])
def test_a_cleared_or_changed_step_never_reuses_a_job(hook, state, new_try, change):
    first = new_try().begin()
    second = new_try(**change).begin()
    assert second != first
    assert hook.running == [second.id]
    assert load_record(state).generation == 2


@pytest.mark.parametrize("change", [{"max_tries": 2}, {"clear_number": 1}, {"key": "other"}])
def test_a_cleared_or_changed_step_never_reuses_a_result(hook, new_try, change):
    finished(hook, new_try())
    assert isinstance(new_try(**change).begin(), JobHandle)


def test_cleared_before_its_handle_was_saved_the_job_is_found_and_ended(hook, new_try):
    hook.fails_after_submit = True
    with pytest.raises(ConnectionResetError):
        new_try().begin()
    hook.fails_after_submit = False
    second = new_try(max_tries=2).begin()
    assert hook.running == [second.id]


def test_a_collected_result_is_returned_again(hook, new_try):
    finished(hook, new_try())
    again = new_try().begin()
    assert again == Collected({**DONE, "usage": {}})
    assert hook.calls["submit"] == 1


def test_a_retry_after_a_failure_is_a_new_generation(hook, state, new_try):
    failure = Failure(Category.USER_ERROR, "boom").to_json()
    _, collected = finished(hook, new_try(), {"failure": failure})
    assert collected.failure.summary == "boom"
    assert isinstance(new_try().begin(), JobHandle)
    assert load_record(state).generation == 2


@pytest.mark.parametrize("state_of_job", [JobState.GONE, JobState.CANCELLED, JobState.FAILED])
def test_a_job_that_ended_unseen_without_an_outcome_is_replaced(hook, new_try, state_of_job):
    first = new_try().begin()
    hook.end(first.id, state_of_job)
    second = new_try().begin()
    assert second != first
    assert hook.running == [second.id]


@pytest.mark.parametrize("category", [Category.OOM, Category.TIMEOUT])
def test_a_limit_that_struck_unseen_is_the_answer(hook, new_try, category):
    first = new_try().begin()
    hook.end(first.id, JobState.FAILED, failure=Failure(category, "too much"))
    assert new_try().begin() == first


def test_a_job_that_cannot_be_stopped_is_never_doubled(hook, new_try):
    new_try().begin()
    hook.stop_limit_s = 0.05
    hook.ignores_cancel = True
    with pytest.raises(StepFailedError, match="could not be stopped within"):
        new_try(max_tries=2).begin()
    assert hook.calls["submit"] == 1


def test_killed_during_submit_the_job_is_cancelled_at_once(hook, new_try):
    new_try(was_killed=lambda: True).begin()
    assert hook.running == []


@pytest.mark.parametrize(
    ("keep", "value", "stays"),
    [
        ("never", DONE, False),
        ("failed", DONE, False),
        ("always", DONE, True),
        ("never", {"failure": Failure(Category.USER_ERROR, "x").to_json()}, False),
        ("failed", {"failure": Failure(Category.USER_ERROR, "x").to_json()}, True),
    ],
)
def test_keep_says_what_stays(hook, new_try, keep, value, stays):
    handle, _ = finished(hook, new_try(keep=keep), value)
    assert (handle.id in hook.jobs) == stays


def test_a_failed_job_that_is_kept_stays_when_the_task_is_tried_again(hook, new_try):
    failure = {"failure": Failure(Category.USER_ERROR, "x").to_json()}
    first, _ = finished(hook, new_try(), failure)
    new_try().begin()
    assert first.id in hook.jobs


def test_a_deletion_that_was_missed_is_repeated(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, value=DONE)
    hook.delete, delete = lambda handle: (_ for _ in ()).throw(ConnectionError("down")), hook.delete
    lifecycle.finish(handle, StopReason.FINISHED)
    assert handle.id in hook.jobs
    hook.delete = delete
    new_try().begin()
    assert handle.id not in hook.jobs


def test_preemption_is_resubmitted_up_to_a_limit(hook, state, new_try, preempted):
    lifecycle = new_try()
    handle, count = lifecycle.begin(), 0
    while handle is not None:
        count += 1
        hook.end(handle.id, JobState.FAILED, failure=preempted)
        collected = lifecycle.finish(handle, StopReason.FINISHED)
        handle = lifecycle.resubmission(collected)
    assert count == MAX_RESUBMISSIONS + 1
    assert collected.failure.category is Category.PREEMPTED
    assert hook.running == []


def lose(hook, lifecycle, category):
    """End the job of ``lifecycle`` with this category, and return the next one's handle."""
    hook.end(lifecycle.record.handle.id, JobState.FAILED, failure=Failure(category, "no machine"))
    return lifecycle.resubmission(lifecycle.finish(lifecycle.record.handle, StopReason.FINISHED))


@pytest.mark.parametrize(
    ("category", "least"),
    [(Category.NO_CAPACITY, [15, 30, 60, 120, 240, 480, 900, 900, 900, 900]), (Category.PREEMPTED, [])],
)
def test_a_machine_that_nobody_has_is_asked_for_less_and_less_often(
    hook, new_try, monkeypatch, category, least
):
    """Between half of the pause and all of it: a thousand tasks do not come back at once."""
    pauses = []
    monkeypatch.setattr(lifecycle_module.time, "sleep", pauses.append)
    lifecycle = new_try()
    lifecycle.request.capacity_pause_s = 30.0
    lifecycle.begin()
    for _ in range(MAX_RESUBMISSIONS):
        assert lose(hook, lifecycle, category) is not None
    assert len(pauses) == len(least)
    assert all(low <= pause <= 2 * low for pause, low in zip(pauses, least, strict=True))


def test_killed_in_the_pause_the_next_try_goes_on_from_there(hook, state, new_try, monkeypatch):
    """No job exists meanwhile, so whoever ends the task in the pause leaves none behind."""

    def killed(pause_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle_module.time, "sleep", killed)
    lifecycle = new_try()
    lifecycle.request.capacity_pause_s = 30.0
    lifecycle.begin()
    with pytest.raises(KeyboardInterrupt):
        lose(hook, lifecycle, Category.NO_CAPACITY)
    assert hook.running == []
    lifecycle.cancel()
    handle = new_try().begin()
    assert hook.running == [handle.id]
    assert (load_record(state).generation, load_record(state).resubmissions) == (2, 1)


def test_what_the_service_knows_wins_over_what_the_step_saw(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    seen = {"failure": Failure(Category.USER_ERROR, "ended by SIGTERM").to_json()}
    hook.end(handle.id, JobState.FAILED, value=seen, failure=Failure(Category.OOM, "used 2 GiB of 1 GiB"))
    assert lifecycle.finish(handle, StopReason.FINISHED).failure.category is Category.OOM


def test_a_gone_job_is_lost_and_said_so(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.jobs.clear()
    failure = lifecycle.finish(handle, StopReason.FINISHED).failure
    assert failure.category is Category.LOST
    assert "the job is gone and its outcome with it" in failure.describe()


def test_a_failure_shows_the_last_lines(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.lines[handle.id] = [f"line {n}" for n in range(100)]
    hook.end(handle.id, JobState.FAILED)
    failure = lifecycle.finish(handle, StopReason.FINISHED).failure
    assert failure.log_tail[-1] == "line 99"
    assert len(failure.log_tail) == 40


def test_a_refused_outcome_settles_the_step(hook, new_try):
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, value=DONE)

    def refuse(report, job, nonce):
        raise IntegrityError("its bytes changed")

    lifecycle.request.read = refuse
    failure = lifecycle.finish(handle, StopReason.FINISHED).failure
    assert "the outcome of the step was refused: its bytes changed" in failure.summary


@pytest.mark.parametrize(
    ("reason", "category", "text"),
    [
        (StopReason.EXECUTION_TIMEOUT, Category.TIMEOUT, "execution_timeout passed"),
        (StopReason.START_TIMEOUT, Category.START_TIMEOUT, "did not start within start_timeout"),
        (StopReason.OVERDUE, Category.TIMEOUT, "which its service should have enforced"),
    ],
)
def test_a_deadline_cancels_the_job(hook, new_try, reason, category, text):
    lifecycle = new_try()
    handle = lifecycle.begin()
    failure = lifecycle.finish(handle, reason).failure
    assert failure.category is category
    assert text in failure.summary
    assert hook.running == []


def test_a_start_that_never_came_is_told_in_the_words_of_the_service(hook, new_try):
    lifecycle = new_try()
    failure = lifecycle.finish(
        lifecycle.begin(), StopReason.START_TIMEOUT, "Unschedulable: no node has 8 GPUs"
    ).failure
    assert "why: start_timeout (Unschedulable: no node has 8 GPUs)" in failure.describe()


@pytest.mark.parametrize("reason", [StopReason.START_TIMEOUT, StopReason.OVERDUE])
def test_a_step_that_has_succeeded_after_all_was_not_late(hook, new_try, reason):
    """Between the last look at it and its end."""
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, value={"result": 7})
    assert lifecycle.finish(handle, reason).data["result"] == 7


def test_cancel_finds_a_job_whose_handle_was_never_saved(hook, new_try):
    hook.fails_after_submit = True
    lifecycle = new_try()
    with pytest.raises(ConnectionResetError):
        lifecycle.begin()
    lifecycle.cancel()
    assert hook.running == []


def test_checkpoints_go_when_there_is_a_result(hook, new_try, preempted):
    """Not after a failure or preemption; and again when the try that should have deleted them was killed."""
    failed = Failure(Category.USER_ERROR, "it raised")
    finished(hook, new_try(), {"failure": failed.to_json()})
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, JobState.FAILED, failure=preempted)
    assert lifecycle.resubmission(lifecycle.finish(handle, StopReason.FINISHED)) is not None
    assert hook.calls["forget_checkpoints"] == 0
    hook.end(next(iter(hook.running)), value=DONE)
    lifecycle.finish(lifecycle.resume(), StopReason.FINISHED)
    assert hook.calls["forget_checkpoints"] == 1
    assert isinstance(new_try().begin(), Collected)
    assert hook.calls["forget_checkpoints"] == 2


def test_checkpoints_that_cannot_be_deleted_do_not_fail_the_task(hook, new_try):
    lifecycle = new_try()

    def fail():
        raise OSError("the store is down")

    lifecycle.request.forget_checkpoints = fail
    _, collected = finished(hook, lifecycle)
    assert collected.failure is None
    assert "The checkpoints of this task stay behind: the store is down" in lifecycle.log.lines


def test_a_job_is_looked_for_where_it_was_to_be(new_try, hook, state):
    """Its worker died in the submit, and meanwhile the task names another place."""
    lifecycle = new_try()
    lifecycle.request.location = {"namespace": "first"}
    hook.error = SystemExit()  # as a kill would end it, before the handle is known
    with pytest.raises(SystemExit):
        lifecycle.begin()
    hook.error = None
    lifecycle = new_try(key="changed")
    lifecycle.request.location = {"namespace": "second"}
    lifecycle.begin()
    assert hook.looked_for[0].settings == {"namespace": "first"}
    assert load_record(state).location == {"namespace": "second"}


def test_way_on_without_a_record():
    assert resume_decision(None, None) is ResumeDecision.START


def test_a_job_that_was_over_needs_no_end_where_it_was(hook, new_try, monkeypatch):
    """Its cluster may be no more when the task is cleared."""
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, value={"result": 7})
    lifecycle.finish(handle, StopReason.FINISHED)

    def refuse(_):
        raise WrongHostError("it was made elsewhere")

    monkeypatch.setattr(hook, "cancel", refuse)
    assert lifecycle._stop(lifecycle.record) == handle
    with pytest.raises(WrongHostError):
        lifecycle._stop(replace(lifecycle.record, collected=None))
