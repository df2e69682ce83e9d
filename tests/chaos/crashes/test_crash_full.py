"""The service has no room for a job. The task waits, deferred, and survives what happens meanwhile."""

from __future__ import annotations

import pytest

GROUP = "The service has no room, and the task waits for it deferred"
AGAIN = "all places are taken: submitting again in"
DAG = "crash_full"


@pytest.fixture(scope="module")
def run(airflow):
    return airflow.trigger(DAG)


@pytest.fixture
def pausing(run, airflow, crashed):
    """Return a task that is deferred without a job."""

    def paused(task_id):
        task = crashed(DAG, run, task_id)
        task.wait_for("paused")
        airflow.wait_state(*task.where, "deferred")
        return task

    return paused


def make_room(task):
    for ending in ("go", "room"):
        task.touch(ending)


def test_until_there_is_room(pausing, airflow):
    task = pausing("waits")
    assert airflow.count(task.mark) == 0
    make_room(task)
    task.settle((GROUP, "until there is room"), state="success", log=AGAIN)
    assert airflow.instance(*task.where)["try_number"] == 1


@pytest.mark.long
def test_the_trigger_of_a_pause_breaks(pausing, airflow):
    task = pausing("breaks")
    task.wait_for_log("The trigger failed")
    make_room(task)
    task.settle((GROUP, "the trigger of a pause breaks"), state="success", log="The trigger failed")
    assert airflow.instance(*task.where)["try_number"] == 1


def test_ended_in_a_pause(pausing, airflow):
    task = pausing("failed")
    airflow.patch(*task.where, "failed")
    make_room(task)
    task.settle((GROUP, "the task is marked failed"), state="failed", log=AGAIN, jobs=0)


def test_out_of_time_in_a_pause(run, crashed):
    """Airflow does not enforce execution_timeout while a task is deferred, so no pause lasts beyond it."""
    task = crashed(DAG, run, "out_of_time")
    log = "execution_timeout passed before there was room"
    task.settle((GROUP, "`execution_timeout`"), state="failed", log=log, jobs=0)


@pytest.mark.long
def test_the_triggerer_is_killed_in_a_pause(pausing, airflow):
    task = pausing("killed")
    airflow.kill("triggerer")
    make_room(task)
    airflow.start("triggerer")
    task.settle((GROUP, "the triggerer is killed with `kill -9`"), state="success", log=AGAIN)
    assert airflow.instance(*task.where)["try_number"] == 1
