"""The receipt that the trigger has seen in the log reaches the hook, so that no worker asks the log again."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
import structlog

from airflow_stepop.hooks.common.receipts import Receipt, receipt_of, signed_receipt
from airflow_stepop.job import JobState
from airflow_stepop.lifecycle.worker_wait import WorkerWait
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from airflow_stepop.triggers import RemoteStepTrigger
from airflow_stepop.waiting.deadlines import Deadlines, StopReason
from tests.support.memory_backend import load_record

RECEIPT = json.dumps({"protocol": 1, "digest": "d", "size": 3})
WAITER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
DEADLINES = {"execution": None, "start": None, "run_s": None}
DONE = {"result": {"value": {"plain": 1}}}


@pytest.fixture
def asked(hook, new_try):
    """Return the lifecycle of a step whose job has ended, and the receipts with which its outcome is read."""
    lifecycle = new_try()
    handle = lifecycle.begin()
    hook.end(handle.id, value=DONE)
    hook.lines[handle.id] = ["a line", RECEIPT_PREFIX + RECEIPT]
    outcome, receipts = hook.outcome, []

    def read(one):
        receipts.append(receipt_of(one))
        return outcome(one)

    hook.outcome = read
    return lifecycle, handle, receipts


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("log_limit", [None, 1])
@pytest.mark.parametrize("chunk", [None, 1])
def test_the_trigger_hands_the_receipt_over(hook, state, asked, log_limit, chunk):
    """Also if the receipt is alone behind the last line, and if the task's log is full."""
    lifecycle, handle, receipts = asked
    hook.chunk = chunk
    trigger = RemoteStepTrigger(handle.to_json(), DEADLINES, 0.01, WAITER, log_limit)

    async def first():
        return await anext(trigger.run())

    event = json.loads(json.dumps(asyncio.run(first()).payload))
    assert event["receipt"]["text"]
    lifecycle.note_receipt(event["receipt"])
    lifecycle.finish(handle, StopReason.FINISHED)
    assert receipts == [Receipt("d", 3)]
    assert load_record(state).handle.detail == {}, "the record has little room"


def test_a_worker_that_waits_itself_keeps_the_receipt(hook, asked):
    _, handle, _ = asked
    request = SimpleNamespace(hook=lambda *_: hook, poll_interval_s=0.01, log_limit=1000)
    observer = SimpleNamespace(status_seen=lambda _: None)
    wait = WorkerWait(request, structlog.get_logger(), observer, lambda: None)
    wait.until_over(handle, Deadlines(), lambda _: None)
    assert json.loads(wait.receipt) == {"digest": "d", "size": 3}


def test_a_receipt_survives_a_pause_for_the_outcome(hook, state, asked, new_try):
    lifecycle, handle, receipts = asked
    lifecycle.note_receipt(signed_receipt(handle, RECEIPT))
    again = new_try()
    again.finish(again.begin(), StopReason.FINISHED)
    assert set(receipts) == {Receipt("d", 3)}


@pytest.mark.parametrize("signed", [None, {}, [], "text", {"text": RECEIPT, "mac": "0" * 64}])
def test_a_forged_receipt_is_not_saved(state, asked, signed):
    lifecycle, handle, receipts = asked
    before = load_record(state)
    assert lifecycle.note_receipt(signed) == handle
    assert load_record(state).handle.detail == before.handle.detail
    lifecycle.finish(handle, StopReason.FINISHED)
    assert receipts == [None]


def test_a_job_without_a_receipt_in_its_log_hands_nothing_over(hook, registered, new_try):
    handle = new_try().begin()
    hook.end(handle.id, JobState.SUCCEEDED, DONE)
    trigger = RemoteStepTrigger(handle.to_json(), DEADLINES, 0.01, WAITER)

    async def first():
        return await anext(trigger.run())

    assert "receipt" not in asyncio.run(first()).payload
