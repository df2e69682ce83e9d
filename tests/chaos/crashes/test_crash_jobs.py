"""``kill -9`` of a local job's processes: the step, its runner, its supervisor."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.support.processes import parent_of

GROUP = "The other side is killed with `kill -9`"
WAYS = {"running": "the task waits in the worker", "deferred": "the task is deferred"}


@pytest.fixture(scope="module")
def run(airflow):
    return airflow.trigger("crash_jobs")


def supervisor_of(airflow, task):
    (job,) = airflow.jobs_of(*task.where)
    state = airflow.home / "stepop" / "jobs" / job["name"] / "state.json"
    return int(json.loads(state.read_text())["pid"])


def runner_of(airflow, task):
    """Return the supervisor's child."""
    supervisor = supervisor_of(airflow, task)
    (runner,) = [pid for pid in airflow.processes_of(*task.where) if parent_of(pid) == supervisor]
    return runner


def step_of(airflow, task):
    (step,) = airflow.pids(task.mark)
    return step


VICTIMS = {
    "runner": ("the runner", runner_of, "success", 2, "killed from outside (SIGKILL)"),
    "supervisor": (
        "the supervisor of a local job",
        supervisor_of,
        "success",
        2,
        "the supervisor of the job was killed",
    ),
    "step": ("the step itself", step_of, "failed", 1, "killed by SIGKILL"),
}


@pytest.mark.parametrize("way", [pytest.param("running", marks=pytest.mark.long), "deferred"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed(run, airflow, crashed, victim, way):
    task = crashed("crash_jobs", run, f"{victim}_{way}")
    task.wait_started(is_deferred=way == "deferred")
    name, find, state, jobs, log = VICTIMS[victim]
    os.kill(find(airflow, task), signal.SIGKILL)
    if jobs > 1:
        task.wait_started(jobs)
        task.touch("go")
    task.settle((GROUP, f"{name}, while {WAYS[way]}"), state=state, log=log, jobs=jobs)
