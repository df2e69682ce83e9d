"""Metrics never make a task fail, and phases log no values of the step."""

from __future__ import annotations

import pytest
from airflow.sdk.observability import stats

from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.waiting import observer as observer_module
from airflow_stepop.waiting.deadlines import StopReason
from airflow_stepop.waiting.observer import Observer, trace_environment


class Recorder:
    """Stands for Airflow's metrics backend: records each call, or fails at each."""

    def __init__(self, error=None):
        self.told = []
        self.error = error

    def note(self, name, *values, tags=None, **more):
        if self.error:
            raise self.error
        self.told.append((name, tags))

    def __getattr__(self, kind):
        return self.note


@pytest.fixture
def backend(monkeypatch):
    """Return a function that makes a recorder the backend of Airflow's metrics."""

    def use(recorder):
        monkeypatch.setattr("airflow.sdk._shared.observability.metrics.stats._backend", recorder)
        return recorder

    return use


def failed(hook, lifecycle, category):
    handle = lifecycle.begin()
    hook.end(handle.id, JobState.FAILED, failure=Failure(category, "x"))
    return lifecycle.finish(handle, StopReason.FINISHED)


def test_attaching_and_resubmitting_are_counted(hook, new_try, backend):
    told = backend(Recorder()).told
    new_try().begin()
    lifecycle = new_try()
    lifecycle.resubmission(failed(hook, lifecycle, Category.PREEMPTED))
    tags = {"backend": "memory", "dag_id": "d", "task_id": "t"}
    counted = [(name, found) for name, found in told if "time" not in name and "bytes" not in name]
    assert counted == [
        (observer_module.SUBMITTED, tags),
        (observer_module.ATTACHED, tags),
        (observer_module.FINISHED, {**tags, "state": "failed", "category": "preempted"}),
        (observer_module.RESUBMITTED, {**tags, "category": "preempted"}),
        (observer_module.SUBMITTED, tags),
    ]


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("a name"), RuntimeError("whatever")])
def test_a_backend_of_metrics_that_fails_changes_nothing(hook, new_try, backend, error):
    backend(Recorder(error))
    assert failed(hook, new_try(), Category.OOM).failure.category is Category.OOM


def test_a_deadline_is_counted_though_the_service_is_silent(hook, new_try, backend):
    told = backend(Recorder()).told
    lifecycle = new_try()
    handle = lifecycle.begin()
    lifecycle.finish(handle, StopReason.EXECUTION_TIMEOUT)
    assert ("stepop.finished", "timeout") in [(name, tags.get("category")) for name, tags in told]


def test_the_clock_of_a_service_may_be_wrong(backend):
    """A negative duration is sent as zero."""
    recorder = backend(Recorder())
    observer_module.timing(observer_module.PENDING_TIME, -5.0, {})
    assert recorder.told == [(observer_module.PENDING_TIME, None)]


def test_without_metrics_there_is_nothing_to_do(hook, new_try):
    assert stats.Stats is not None
    failed(hook, new_try(), Category.INFRA)


class Lines(list):
    def info(self, text, *args):
        self.append(text % args)


def test_phases_count_from_the_beginning(hook, new_try, state):
    lines = Lines()
    request = new_try().request
    lifecycle = StepLifecycle(request, state, new_try().log, observer=Observer(request.labels, lines))
    failed(hook, lifecycle, Category.OOM)
    assert [line.partition(" s: ")[2] for line in lines] == [
        "the record of generation 1 saved",
        "submitted, and the handle saved",
        "collected: oom",
    ]
    times = [float(line.split()[2].removeprefix("+")) for line in lines]
    assert times == sorted(times)


def test_a_pending_reason_and_trouble_are_logged_once():
    lines = Lines()
    observer = Observer({"dag_id": "d", "task_id": "t"}, log=lines)
    observer.status_seen(JobStatus(JobState.PENDING, native="Waiting for its turn"))
    for message in ("no node", "no node", "one node"):
        observer.status_seen(JobStatus(JobState.PENDING, native="Unschedulable", message=message))
    observer.status_seen(JobStatus(JobState.RUNNING, native="Running"))
    for _ in range(2):
        observer.status_seen(
            JobStatus(JobState.RUNNING, native="NodeNotReady", message="its node does not answer")
        )
    observer.status_seen(JobStatus(JobState.FAILED, native="NodeLost", message="all is over"))
    assert lines == [
        "The job waits: Unschedulable: no node",
        "The job waits: Unschedulable: one node",
        "The job is in trouble: NodeNotReady: its node does not answer",
    ]


@pytest.mark.parametrize(
    ("carrier", "env"),
    [
        (
            {"traceparent": "00-1-2-01", "tracestate": "a=b"},
            {"TRACEPARENT": "00-1-2-01", "TRACESTATE": "a=b"},
        ),
        ({"traceparent": "00-1-2-01"}, {"TRACEPARENT": "00-1-2-01"}),
        ({"traceparent": None, "other": "x"}, {}),
        ({}, {}),
        (None, {}),
        ("text", {}),
    ],
)
def test_the_trace_of_the_task(carrier, env):
    assert trace_environment(carrier) == env
