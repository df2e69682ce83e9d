"""A service that is away, or full: whoever needs it waits, and nothing is begun twice."""

from __future__ import annotations

import pytest

from airflow_stepop.exceptions import QuotaError
from airflow_stepop.failure import Category, StepFailedError
from airflow_stepop.job import JobHandle
from airflow_stepop.lifecycle import api_retries
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import load_record

FULL = QuotaError("the quota of namespace 'ml' is used up: count/jobs.batch=5")
DOWN = ConnectionError("503")
DONE = {"result": {"kind": "plain", "value": 42}}


@pytest.fixture
def trouble(hook, monkeypatch):
    """Have the next calls of a verb fail."""

    def fail(verb, *errors):
        real, left = getattr(hook, verb), list(errors)

        def wrapped(*arguments):
            if left:
                hook.calls[f"failed {verb}"] += 1
                raise left.pop(0)
            return real(*arguments)

        monkeypatch.setattr(hook, verb, wrapped)

    monkeypatch.setattr(hook, "is_transient", lambda error: error is DOWN, raising=False)
    return fail


@pytest.fixture
def pauses(monkeypatch):
    """Wait for nothing, and collect for how long it would have been."""
    found, now = [], api_retries.time.time
    monkeypatch.setattr(api_retries.time, "sleep", found.append)
    monkeypatch.setattr(api_retries.time, "time", lambda: now() + sum(found))
    return found


def test_a_full_quota_is_waited_for_under_the_same_name(hook, state, new_try, trouble, pauses):
    trouble("submit", FULL, FULL, FULL)
    lifecycle = new_try()
    lifecycle.request.capacity_pause_s = 30.0
    handle = lifecycle.begin()
    assert isinstance(handle, JobHandle)
    assert load_record(state).generation == 1
    assert load_record(state).resubmissions == 0
    assert len(hook.running) == 1
    assert [15 <= pauses[0] <= 30, 15 <= pauses[1] <= 31, 15 <= pauses[2] <= 62] == [True] * 3
    assert any("count/jobs.batch=5: submitting again in" in line for line in lifecycle.log.lines)


@pytest.mark.parametrize("start_timeout_s", [None, 20.0])
def test_a_quota_that_stays_full_is_not_waited_for_without_end(
    hook, new_try, trouble, pauses, start_timeout_s
):
    trouble("submit", *[FULL] * 100_000)
    lifecycle = new_try()
    lifecycle.request.capacity_pause_s, lifecycle.request.start_timeout_s = 100.0, start_timeout_s
    with pytest.raises(StepFailedError) as raised:
        lifecycle.begin()
    assert raised.value.failure.category is Category.QUOTA
    assert "count/jobs.batch=5" in raised.value.failure.summary
    assert sum(pauses) <= (start_timeout_s or api_retries.QUOTA_LIMIT_S)
    assert hook.running == []


def test_who_waits_for_room_may_leave_the_process(hook, state, new_try, trouble):
    """As a task that defers: another worker goes on, under the same name."""
    trouble("submit", FULL)

    def leave(pause_s):
        raise SystemExit

    lifecycle = new_try()
    lifecycle.api_retries.pause = leave
    with pytest.raises(SystemExit):
        lifecycle.begin()
    name = load_record(state).name
    handle = new_try().begin()
    assert handle.name == name
    assert len(hook.running) == 1


def test_a_task_that_was_ended_waits_for_no_quota(hook, new_try, trouble, pauses):
    trouble("submit", FULL, FULL)
    with pytest.raises(StepFailedError):
        new_try(was_killed=lambda: True).begin()
    assert pauses == []


def test_trouble_of_the_service_is_sat_out(hook, state, new_try, trouble, pauses):
    for verb in ("submit", "status", "outcome", "delete"):
        trouble(verb, DOWN, DOWN)
    lifecycle = new_try(keep="never")
    handle = lifecycle.begin()
    hook.end(handle.id, value=DONE)
    assert lifecycle.finish(handle, StopReason.FINISHED).data["result"] == DONE["result"]
    assert hook.jobs == {}
    assert load_record(state).generation == 1
    assert [hook.calls[f"failed {verb}"] for verb in ("submit", "status", "outcome", "delete")] == [2] * 4


def test_trouble_is_sat_out_when_another_try_looks_for_the_job(hook, new_try, trouble, pauses):
    hook.fails_after_submit = True
    with pytest.raises(ConnectionResetError):
        new_try().begin()
    hook.fails_after_submit = False
    trouble("lookup", DOWN)
    trouble("status", DOWN)
    assert isinstance(new_try().begin(), JobHandle)
    assert hook.calls["submit"] == 1


def test_an_error_that_stays_is_told_at_once(new_try, trouble, pauses):
    trouble("submit", ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        new_try().begin()
    assert pauses == []
