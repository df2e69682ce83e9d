"""The trigger outside of a triggerer: what it carries, and what it does when it is killed."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from airflow_stepop import triggers
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.triggers import RemoteStepTrigger

HANDLE = JobHandle("local", None, "host", "job-1", "job-1", {"folder": "/x"})
WAITER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
DEADLINES = {"execution": None, "start": None, "run_s": None}


def make(waiter=WAITER, **kwargs):
    return RemoteStepTrigger(HANDLE.to_json(), DEADLINES, 1.0, waiter, **kwargs)


def test_it_is_rebuilt_from_plain_json():
    path, kwargs = make().serialize()
    assert path == "airflow_stepop.triggers.RemoteStepTrigger"
    again = RemoteStepTrigger(**json.loads(json.dumps(kwargs)))
    assert again.handle == HANDLE
    assert again.handle.detail == {"folder": "/x"}
    assert again.serialize() == make().serialize()


def test_arguments_of_a_newer_version_are_accepted():
    assert make(something_new=1).handle == HANDLE


def test_a_damaged_handle_leaves_the_job_to_the_worker(hook, monkeypatch):
    """Airflow tells the worker that the trigger failed, and the worker has the record."""
    hook.damaged.add(HANDLE.id)
    monkeypatch.setattr(triggers, "create_hook", lambda *_: hook)

    async def run():
        return [event async for event in make().run()]

    with pytest.raises(IntegrityError, match="damaged"):
        asyncio.run(asyncio.wait_for(run(), 30))


def test_a_start_that_never_came_is_told_with_what_the_job_waited_for(hook, monkeypatch):
    handle = hook.add("late", JobState.PENDING, native="Unschedulable: no node has 8 GPUs")
    monkeypatch.setattr(triggers, "create_hook", lambda *_: hook)
    waiting = RemoteStepTrigger(handle.to_json(), {**DEADLINES, "start": 1.0}, 0.01, WAITER)

    async def first():
        return await anext(waiting.run())

    event = asyncio.run(first())
    assert event.payload["reason"] == "start_timeout"
    assert event.payload["error"] == "Unschedulable: no node has 8 GPUs"


@pytest.mark.parametrize(
    ("ago_s", "least_s", "most_s"), [(0, 0.8, 1), (0.4, 0.4, 0.6), (5, 0, 0), (-60, 1, 1)]
)
def test_it_does_not_fire_before_its_worker_can_have_ended(ago_s, least_s, most_s):
    begin = time.monotonic()
    trigger = make({**WAITER, "since": time.time() - ago_s})
    late_s = time.monotonic() - begin
    assert least_s - late_s <= trigger._hold_s() <= most_s


def test_a_job_that_is_over_is_told_a_moment_after_the_deferral(hook, monkeypatch):
    monkeypatch.setattr(triggers, "create_hook", lambda *_: hook)
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
def test_damaged_arguments_are_an_error_of_which_no_triggerer_dies(damaged):
    """Airflow's triggerer takes a TypeError for a trigger that cannot be made; anything else ends it."""
    _, given = make().serialize()
    with pytest.raises(TypeError, match="no arguments of RemoteStepTrigger"):
        RemoteStepTrigger(**{**given, **damaged})
