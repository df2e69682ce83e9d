"""What a worker does that waits for its job itself, and what it does after a pause."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred

from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.lifecycle.worker import WorkerSession
from airflow_stepop.lifecycle.worker_wait import WorkerWait
from airflow_stepop.triggers import PauseTrigger
from airflow_stepop.waiting.deadlines import Deadlines, StopReason


@pytest.fixture
def wait(hook):
    request = SimpleNamespace(hook=lambda *_: hook, poll_interval_s=0.01, log_limit=1000)
    observer = SimpleNamespace(status_seen=lambda _: None)
    return WorkerWait(request, logging.getLogger(__name__), observer, lambda: None)


@pytest.mark.parametrize("error", [None, ConnectionError("the node is away")])
def test_the_outcome_is_preserved_when_the_end_is_seen(hook, wait, error):
    order = []

    def preserve(handle):
        order.append("preserved")
        if error is not None:
            raise error

    hook.preserve_outcome = preserve
    handle = hook.add("job", JobState.SUCCEEDED)
    reason = wait.until_over(handle, Deadlines(), lambda status: order.append(status.state.value))
    assert reason is StopReason.FINISHED
    assert order == ["succeeded", "preserved"]


@pytest.fixture
def session(hook, new_try):
    """Return a function that makes the session of a task which may defer, on the record of ``new_try``."""

    def make(*, execution_end=None, deferrable=True):
        lifecycle = new_try()
        made = WorkerSession.__new__(WorkerSession)

        def defer(*, trigger, method_name, timeout=None):
            raise TaskDeferred(trigger=trigger, method_name=method_name, timeout=timeout)

        begun = None
        limit = None
        if execution_end is not None:
            begun = SimpleNamespace(timestamp=lambda: execution_end)
            limit = SimpleNamespace(total_seconds=lambda: 0.0)
        made.__dict__.update(
            lifecycle=lifecycle,
            request=SimpleNamespace(own_hook=hook, deferrable=None),
            operator=SimpleNamespace(execution_timeout=limit, deferrable=deferrable, defer=defer),
            _begun=begun,
        )
        return made

    return make


def test_a_pause_for_an_outcome_defers_although_the_job_has_ended(session):
    """A try that attached to an ended job waits for no trigger of the job, and may still pause."""
    made = session()
    made.lifecycle.begin()
    made.lifecycle.has_found_end = True
    with pytest.raises(TaskDeferred) as deferred:
        made._pause_elsewhere(20.0)
    assert isinstance(deferred.value.trigger, PauseTrigger)
    assert deferred.value.trigger.until == pytest.approx(time.time() + 20, abs=5)


def test_after_the_pause_the_outcome_of_the_ended_job_is_read(session, new_try, monkeypatch):
    first = new_try()
    handle = first.begin()
    first.note_end(JobStatus(JobState.SUCCEEDED))
    ends = []
    monkeypatch.setattr(WorkerSession, "_end", lambda _, *given: ends.append(given))
    session()._after_pause()
    assert ends == [(handle, StopReason.FINISHED)]


def test_the_execution_timeout_also_counts_while_an_outcome_is_awaited(session, new_try):
    first = new_try()
    first.begin()
    first.note_end(JobStatus(JobState.SUCCEEDED))
    with pytest.raises(AirflowTaskTimeout, match="before the outcome of its job could be read"):
        session(execution_end=time.time() - 1)._after_pause()
