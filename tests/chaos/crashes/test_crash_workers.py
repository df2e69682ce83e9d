"""``kill -9`` of a worker at each point of a step."""

from __future__ import annotations

import os
import signal

import pytest

KILLED = "The worker is killed with `kill -9`"
AGAIN = "found: attach"

POINTS = {
    "unintended": ("before it has written anything", "Submitted: "),
    "intended": ("after the intent was saved, before the submit", "found: continue"),
    "submitting": ("in the submit, before the job exists", "found: continue"),
    "submitted": ("between the submit and saving the handle", "Attached to"),
    "saved": ("after saving the handle", AGAIN),
    "waiting": ("while it waits for the job", AGAIN),
    "seen": ("after saving how the job ended", AGAIN),
    "finishing": ("before it has read the outcome", AGAIN),
    "read": ("after it has read the outcome, before saving it", AGAIN),
    "collected": ("after saving the outcome, before tidying up", "found: return"),
    "returning": ("before the XCom was pushed", "found: return"),
    "saved_deferred": ("after saving the handle, before the task is deferred", AGAIN),
    "resumed_deferred": ("resumed, before it knows the reason", AGAIN),
    "seen_deferred": ("resumed, after saving how the job ended", AGAIN),
    "finishing_deferred": ("resumed, before it has read the outcome", AGAIN),
    "read_deferred": ("resumed, after it has read the outcome", AGAIN),
    "collected_deferred": ("resumed, after saving the outcome", "found: return"),
    "returning_deferred": ("resumed, before the XCom was pushed", "found: return"),
}
LATE = {"resumed", "seen", "finishing", "read", "collected", "returning"}


@pytest.fixture(scope="module")
def run(airflow, crashed):
    """One run for all points. Each step goes on until its worker has died; a late one up to its point."""
    run = airflow.trigger("crash_workers")
    tasks = [crashed("crash_workers", run, point) for point in POINTS]
    for task in tasks:
        if task.task_id in LATE:
            task.touch("go")
        elif task.task_id.removesuffix("_deferred") in LATE:
            task.wait_started(is_deferred=True)
            task.touch("go")
    for task in tasks:
        task.wait_for("died")
        task.touch("go")
    return run


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_is_killed(run, airflow, crashed, point):
    task = crashed("crash_workers", run, point)
    when, log = POINTS[point]
    task.settle((KILLED, when), state="success", log=log)
    tries = airflow.instance(*task.where)["try_number"]
    assert tries >= 2
    if point.removesuffix("_deferred") in LATE:
        last = airflow.log(*task.where, try_number=tries)
        assert "Pausing task as DEFERRED" not in last, "its job was over: there was nothing to wait for"


def test_a_worker_is_told_to_end(run, airflow, crashed):
    """A spot machine goes away under the worker: SIGTERM, while Airflow still has the task as running."""
    task = crashed("crash_workers", run, "told_to_end")
    task.wait_started()
    worker = int((airflow.marks / f"{task.mark}.worker").read_text())
    os.kill(worker, signal.SIGTERM)
    task.wait_for_log("the job goes on")
    os.kill(worker, signal.SIGKILL)
    task.touch("go")
    title = ("The worker is killed with `kill -9`", "told to end (SIGTERM) first, as a spot machine is")
    task.settle(title, state="success", log="the job goes on and the next try attaches to it")
