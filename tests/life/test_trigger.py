"""The trigger outside of a triggerer: what it carries, and what it does when it is killed."""

from __future__ import annotations

import asyncio
import json

import pytest

from airflow_stepop import triggers
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.job import JobHandle
from airflow_stepop.triggers import RemoteStepTrigger

HANDLE = JobHandle("local", None, "host", "job-1", "job-1", {"folder": "/x"})
WAITER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


def make(**kwargs):
    deadlines = {"execution": None, "start": None, "run_s": None}
    return RemoteStepTrigger(HANDLE.to_json(), deadlines, 1.0, WAITER, **kwargs)


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
