"""The trigger without a triggerer: its arguments, its events, and its end."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from airflow_stepop import triggers
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.triggers import RemoteStepTrigger
from tests.support.waiting import in_time, until

pytestmark = pytest.mark.usefixtures("registered")  # the triggers find the test's hook
HANDLE = JobHandle("local", None, "host", "job-1", "job-1", {"folder": "/x"})
WAITER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
DEADLINES = {"execution": None, "start": None, "run_s": None}


def make(waiter=WAITER, **kwargs):
    return RemoteStepTrigger(HANDLE.to_json(), DEADLINES, 1.0, waiter, **kwargs)


def test_a_trigger_is_rebuilt_from_plain_json():
    path, kwargs = make().serialize()
    assert path == "airflow_stepop.triggers.RemoteStepTrigger"
    again = RemoteStepTrigger(**json.loads(json.dumps(kwargs)))
    assert again.handle == HANDLE
    assert again.handle.detail == {"folder": "/x"}
    assert again.serialize() == make().serialize()


def test_arguments_of_a_newer_version_are_accepted():
    assert make(something_new=1).handle == HANDLE


def test_a_damaged_handle_leaves_the_job_to_the_worker(hook):
    """Airflow tells the worker that the trigger failed. The worker then uses the record."""
    hook.damaged.add("damaged")
    trigger = RemoteStepTrigger(hook.handle("damaged").to_json(), DEADLINES, 1.0, WAITER)

    async def run():
        return [event async for event in trigger.run()]

    with pytest.raises(IntegrityError, match="damaged"):
        asyncio.run(in_time(run(), "the end of the trigger"))


def test_a_start_timeout_tells_what_the_job_waited_for(hook):
    handle = hook.add("late", JobState.PENDING, native="Unschedulable", message="no node has 8 GPUs")
    waiting = RemoteStepTrigger(handle.to_json(), {**DEADLINES, "start": 1.0}, 0.01, WAITER)

    async def first():
        return await anext(waiting.run())

    event = asyncio.run(first())
    assert event.payload["reason"] == "start_timeout"
    assert event.payload["error"] == "Unschedulable: no node has 8 GPUs"


@pytest.mark.parametrize(
    ("ago_s", "least_s", "most_s"), [(0, 0.8, 1), (0.4, 0.4, 0.6), (5, 0, 0), (-60, 1, 1)]
)
def test_a_trigger_does_not_fire_before_its_worker_can_have_ended(ago_s, least_s, most_s):
    begin = time.monotonic()
    trigger = make({**WAITER, "since": time.time() - ago_s})
    late_s = time.monotonic() - begin
    assert least_s - late_s <= trigger._hold_s() <= most_s


def test_a_job_that_is_over_is_told_a_moment_after_the_deferral(hook):
    handle, begin = hook.add("over", JobState.SUCCEEDED), time.time()
    trigger = RemoteStepTrigger(handle.to_json(), DEADLINES, 1.0, {**WAITER, "since": begin})

    async def first():
        return await anext(trigger.run())

    event = asyncio.run(first())
    assert event.payload["reason"] == "finished"
    assert time.time() - begin >= 0.99


@pytest.mark.parametrize(
    "damaged", [{"handle": {"backend": 1}}, {"deadlines": ["bogus"]}, {"deadlines": None}]
)
def test_damaged_arguments_do_not_end_the_triggerer(damaged):
    """Airflow's triggerer handles a TypeError as a failed trigger. Any other exception ends the triggerer."""
    _, given = make().serialize()
    with pytest.raises(TypeError, match="wrong arguments for RemoteStepTrigger"):
        RemoteStepTrigger(**{**given, **damaged})


def test_a_start_is_not_late_before_a_fresh_look(hook, monkeypatch):
    """The known status may be old: the service was away, and the step may have begun since."""
    handle = hook.add("late", JobState.PENDING)
    monkeypatch.setattr(triggers, "LOOK_AGAIN_S", 0.1)
    looks: list[JobHandle] = []
    hook.fresh_status = lambda one: looks.append(one) or JobStatus(JobState.RUNNING)
    waiting = RemoteStepTrigger(handle.to_json(), {**DEADLINES, "start": 1.0}, 0.01, WAITER)

    async def scenario():
        first = asyncio.ensure_future(anext(waiting.run()))
        await until(lambda: len(looks), "three looks", holds=lambda count: count >= 3)
        assert not first.done()
        hook.end(handle.id)
        return await first

    assert asyncio.run(scenario()).payload["reason"] == "finished"
    assert hook.calls["cancel"] == 0


def test_a_job_that_cannot_be_looked_at_is_not_late(hook, monkeypatch):
    handle, looks = hook.add("late", JobState.PENDING), []
    monkeypatch.setattr(triggers, "LOOK_AGAIN_S", 0.1)

    def look(one):
        looks.append(one)
        if len(looks) < 3:
            raise ConnectionError("the service is away")
        return hook.status([one])[one]

    hook.fresh_status = look
    waiting = RemoteStepTrigger(handle.to_json(), {**DEADLINES, "start": 1.0}, 0.01, WAITER)

    async def first():
        return await anext(waiting.run())

    assert asyncio.run(first()).payload["reason"] == "start_timeout"
    assert len(looks) == 3


def test_a_task_that_is_ended_cancels_its_job_although_the_service_is_briefly_away(hook, monkeypatch):
    """Airflow calls on_kill only once."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    handle = hook.add("ended")
    monkeypatch.setattr(triggers, "INSIST_S", (0.01, 0.01))
    answers = [ConnectionError("Airflow is away"), {"r": {"t": "failed"}}]
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **_: answer(answers.pop(0)))
    cancel, tries = hook.cancel, [ConnectionError("the service is away"), None]
    hook.cancel = lambda one: answer(tries.pop(0)) or cancel(one)
    asyncio.run(RemoteStepTrigger(handle.to_json(), DEADLINES, 0.01, WAITER).on_kill())
    assert hook.running == []


def answer(found):
    if isinstance(found, Exception):
        raise found
    return found


def fired(handle):
    """Return the payload of the event that a trigger for ``handle`` fires."""
    waiting = RemoteStepTrigger(handle.to_json(), DEADLINES, 0.01, WAITER)

    async def first():
        return await anext(waiting.run())

    return json.loads(json.dumps(asyncio.run(first()).payload))


def test_an_event_says_how_the_job_ended(hook):
    """The worker may see the job no more: the event is all that is left of its end."""
    failure = Failure(Category.OOM, "used 2 GiB of 1 GiB", "OOMKilled", 137)
    status = JobStatus(JobState.FAILED, failure, "OOMKilled", 5.0, 9.0)
    hook.jobs["over"] = status
    assert JobStatus.from_json(fired(hook.handle("over"))["end"]) == status


def test_an_end_without_a_time_is_as_old_as_its_event(hook):
    begin = time.time()
    end = fired(hook.add("over", JobState.SUCCEEDED))["end"]
    assert end["state"] == "succeeded"
    assert begin <= end["finished_at"] <= time.time()


def test_a_job_that_is_gone_has_no_known_end(hook):
    assert "end" not in fired(hook.handle("gone"))


def test_an_end_in_words_that_no_event_can_carry_has_its_state_only(hook):
    hook.add("over", JobState.FAILED, failure=Failure(Category.INFRA, "bad \ud800 text"))
    end = fired(hook.handle("over"))["end"]
    assert (end["state"], end["failure"]) == ("failed", None)
