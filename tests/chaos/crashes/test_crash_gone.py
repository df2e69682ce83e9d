"""A job is deleted after its end was seen and before its outcome is read. The step never runs again."""

from __future__ import annotations

import shutil

import pytest

GROUP = "The step has succeeded, and somebody deletes its job before the outcome is read"
DAG = "crash_gone"
LOG = "but its outcome cannot be read"

TASKS = {
    "killed_running": ("the worker has seen the end, and is killed with `kill -9`", 2),
    "killed_deferred": ("the resumed worker knows the end, and is killed with `kill -9`", 2),
    "resuming": ("the triggerer has seen the end, and the task is about to resume", 1),
    "reporting": ("the worker is killed with `kill -9` before it could report that", 2),
    "own_retries": ("the task has `retries=2` of its own", 3),
}


@pytest.fixture(scope="module")
def run(airflow, crashed):
    """One run for all tasks. Each job is deleted while its worker is held at a point after the job's end."""
    run = airflow.trigger(DAG)
    tasks = [crashed(DAG, run, task_id) for task_id in TASKS]
    for task in tasks:
        task.wait_started()
        if task.task_id != "killed_running":
            airflow.wait_state(*task.where, "deferred")
        task.touch("go")
    for task in tasks:
        task.wait_for("held")
        (job,) = airflow.jobs_of(*task.where)
        shutil.rmtree(airflow.home / "stepop" / "jobs" / job["name"])
        task.touch("let")
    return run


@pytest.mark.parametrize("task_id", TASKS)
def test_a_step_that_has_succeeded_never_runs_again(run, airflow, crashed, task_id):
    task = crashed(DAG, run, task_id)
    crash, tries = TASKS[task_id]
    task.settle((GROUP, crash), state="failed", log=LOG)
    assert airflow.instance(*task.where)["try_number"] == tries
    text = airflow.logs(*task.where)
    assert "why: lost" in text
    assert "what to do: the step is not run again by itself; clear the task to run it again" in text
    assert task.has("died") == (task_id in ("killed_running", "killed_deferred", "reporting"))


def test_a_clear_runs_it_again(run, airflow, crashed):
    """The record of the failure does not outlive a clear."""
    task = crashed(DAG, run, "resuming")
    airflow.clear(*task.where)
    task.settle((GROUP, "and then the user clears the task"), state="success", log="found: replace", jobs=2)
