"""``kill -9`` of a worker at each point of a step."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.crashes.worker_points import LATE, POINTS

KILLED = "The worker is killed with `kill -9`"


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
