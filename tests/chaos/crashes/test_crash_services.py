"""Airflow's own services are killed in the middle of a step, and come back."""

from __future__ import annotations

import os
import signal
import time

import pytest

TASKS = {
    "submitting": "while it submits",
    "running": "while it waits in the worker",
    "deferred": "while it is deferred",
    "returning": "while it hands its result over",
}
AWAY_S = 3.0


def kill_api_server(airflow):
    airflow.kill("api-server")
    time.sleep(AWAY_S)
    airflow.start("api-server")


def stop_scheduler(airflow):
    """Stop the scheduler.

    It is alive and does nothing. The deployment (``revives``) then kills it with its workers.
    """
    os.kill(airflow.processes["scheduler"].pid, signal.SIGSTOP)


def kill_scheduler(airflow):
    """Kill the scheduler with its workers, as if their host died."""
    airflow.kill("scheduler")
    time.sleep(AWAY_S)
    airflow.start("scheduler")


def kill_scheduler_alone(airflow):
    """Kill the scheduler alone. Its workers go on, and no process waits for them."""
    airflow.kill_alone("scheduler")
    time.sleep(AWAY_S)
    airflow.start("scheduler")


def kill_database(airflow):
    """Crash the database server. Committed data survive."""
    airflow.postgres.down()
    time.sleep(AWAY_S)
    airflow.postgres.up()


# make crashes runs the other services as well
SHORT = ("api_server", "scheduler")
SERVICES = {
    "api_server": ("The API server is killed and comes back", kill_api_server),
    "scheduler_still": ("The scheduler stands still, until it is killed and comes back", stop_scheduler),
    "scheduler": ("The scheduler and its workers are killed and come back", kill_scheduler),
    "scheduler_alone": ("The scheduler is killed and comes back; its workers go on", kill_scheduler_alone),
    "database": ("The database (PostgreSQL) is killed and comes back", kill_database),
}


@pytest.fixture(scope="module")
def run(airflow, crashed, request, postgres_or_skip):
    """One run per service. Each task is in its own phase when the service dies, and may go on at once."""
    if request.param == "database":
        postgres_or_skip()
    run = airflow.trigger("crash_services")
    tasks = [crashed("crash_services", run, task_id) for task_id in TASKS]
    submitting, running, deferred, returning = tasks
    running.wait_started()
    deferred.wait_started(is_deferred=True)
    returning.touch("go")
    returning.wait_for("held")
    submitting.wait_for("held")
    airflow.revives = True
    try:
        _, kill = SERVICES[request.param]
        for task in tasks:
            task.touch("go")
        submitting.touch("let")
        returning.touch("let")
        kill(airflow)
        airflow.wait_for(airflow.answers, "the API server")
        airflow.wait_run("crash_services", run)
        yield SERVICES[request.param][0], run
    finally:
        airflow.revives = False


@pytest.mark.parametrize("task_id", TASKS)
@pytest.mark.parametrize(
    "run",
    [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in SERVICES],
    indirect=True,
)
def test_a_service_is_killed(run, airflow, crashed, task_id):
    group, run_id = run
    task = crashed("crash_services", run_id, task_id)
    task.settle((group, TASKS[task_id]), state="success", log="the step runs")
