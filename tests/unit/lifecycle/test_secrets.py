"""The secret input of a job goes at each way to its end, whatever ``keep`` says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobState
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import Log, load_record, save_record

FAILED = {"failure": Failure(Category.USER_ERROR, "no").to_json()}


@pytest.fixture
def begun(hook, new_try):
    """A try whose job is kept for ever, and whose job runs."""
    lifecycle = new_try(keep="always")
    handle = lifecycle.begin()
    assert hook.secrets == {handle.id}
    return lifecycle, handle


def ended(hook, handle):
    """Check that the job is kept, and its secrets are not."""
    assert hook.secrets == set()
    assert hook.calls["delete"] == 0
    return handle.id in hook.jobs


def test_a_success(hook, begun):
    lifecycle, handle = begun
    hook.end(handle.id, value={"result": {"nothing": True}})
    lifecycle.finish(handle, StopReason.FINISHED)
    assert ended(hook, handle)


def test_a_failure(hook, new_try):
    lifecycle = new_try(keep="failed")
    handle = lifecycle.begin()
    hook.end(handle.id, JobState.FAILED, value=FAILED)
    lifecycle.finish(handle, StopReason.FINISHED)
    assert ended(hook, handle)


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.SUCCEEDED, JobState.CANCELLED])
def test_an_end_without_an_outcome(hook, begun, end):
    lifecycle, handle = begun
    hook.end(handle.id, end)
    lifecycle.finish(handle, StopReason.FINISHED)
    assert ended(hook, handle)


def test_a_job_that_vanished(hook, begun):
    lifecycle, handle = begun
    hook.jobs.clear()
    lifecycle.finish(handle, StopReason.FINISHED)
    assert not ended(hook, handle)


@pytest.mark.parametrize("reason", [reason for reason in StopReason if reason.is_deadline])
def test_a_deadline(hook, begun, reason):
    lifecycle, handle = begun
    lifecycle.finish(handle, reason)
    assert ended(hook, handle)


def test_a_timeout_of_airflow_itself(hook, begun):
    lifecycle, handle = begun
    lifecycle.cancel(StopReason.EXECUTION_TIMEOUT)
    assert ended(hook, handle)


def test_a_resubmission(hook, begun, preempted):
    lifecycle, handle = begun
    hook.end(handle.id, JobState.FAILED, failure=preempted)
    again = lifecycle.resubmission(lifecycle.finish(handle, StopReason.FINISHED))
    assert hook.secrets == {again.id}
    assert hook.calls["delete"] == 0


@pytest.mark.parametrize("changes", [{"max_tries": 2}, {"key": "other"}])
def test_a_cleared_or_changed_step(hook, new_try, begun, changes):
    """The job of the earlier generation is stopped, and its secrets go."""
    _, first = begun
    again = new_try(keep="always", **changes).begin()
    assert hook.secrets == {again.id}
    assert hook.jobs[first.id].state is JobState.CANCELLED


def test_a_job_that_is_replaced_by_a_retry(hook, new_try, begun):
    _, first = begun
    hook.jobs.clear()
    again = new_try(keep="always").begin()
    assert again != first
    assert hook.secrets == {again.id}


def test_a_worker_that_was_killed_before_it_had_tidied(hook, state, new_try, begun):
    """A later try deletes them again."""
    _, handle = begun
    hook.end(handle.id, value={"result": {"nothing": True}})
    save_record(state, replace(load_record(state), collected={"result": {"nothing": True}}))
    new_try(keep="always").begin()
    assert ended(hook, handle)


def test_a_task_that_fails_for_good(hook, begun):
    """Nobody looks at the job again, so the secrets go with the cancellation."""
    lifecycle, handle = begun
    lifecycle.abandon()
    assert ended(hook, handle)
    assert hook.jobs[handle.id].state is JobState.CANCELLED


def test_a_task_that_fails_before_it_knows_its_job(hook, state, new_try):
    hook.fails_after_submit = True
    lifecycle = new_try()
    with pytest.raises(ConnectionResetError):
        lifecycle.begin()
    lifecycle.abandon()
    assert load_record(state).handle is None
    assert hook.secrets == set()


def test_a_task_that_a_user_ends(hook, new_try, begun):
    """A signal handler has no time for a store. The next generation, or a sweep, deletes them."""
    lifecycle, first = begun
    lifecycle.cancel()
    assert hook.secrets == {first.id}
    again = new_try(keep="always", clear_number=1).begin()
    assert hook.secrets == {again.id}


def test_nothing_is_abandoned_without_a_job(hook, new_try):
    new_try().abandon()
    assert not hook.calls["delete_secrets"]


def test_secrets_that_cannot_be_deleted_fail_no_task(hook, new_try):
    class Stubborn(type(hook)):
        def delete_secrets(self, handle):
            raise OSError("the bucket is away")

    hook.__class__, log = Stubborn, Log()
    lifecycle = new_try(keep="always", log=log)
    handle = lifecycle.begin()
    hook.end(handle.id, value={"result": {"nothing": True}})
    assert lifecycle.finish(handle, StopReason.FINISHED).failure is None
    assert (
        f"The secret input of memory job {handle.id} stays until it is swept: the bucket is away" in log.lines
    )
