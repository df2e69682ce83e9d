"""``kill -9`` of Airflow's processes while steps run as SageMaker training jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos.crashes.crash_table import CrashedTask
from tests.chaos.crashes.dags.crash_training_points import LONG, SHORT
from tests.chaos.crashes.worker_points import LATE, POINTS

WORKER = "On SageMaker, the worker is killed with `kill -9`"
SERVICE = "On SageMaker, a service of Airflow is killed with `kill -9`"
OVER = {"Completed", "Failed", "Stopped"}


@dataclass(frozen=True)
class TrainingTask(CrashedTask):
    """A task whose processes are those of its training jobs."""

    service: Any = None

    def jobs(self) -> dict[str, Any]:
        """Return the jobs of the task: name -> what the emulator knows."""
        client, found = self.service.client("sagemaker"), {}
        for name, job in self.service.report()["jobs"].items():
            env = client.describe_training_job(TrainingJobName=name)["Environment"]
            if env.get("STEPOP_TEST_MARK") == f"{self.airflow.marks}/{self.mark}":
                found[name] = job
        return found

    def _processes(self) -> list[Any]:
        return [name for name, job in self.jobs().items() if job["status"] not in OVER]


@pytest.fixture(scope="module")
def training(airflow, table, training_service):
    """Return a function that takes DAG, run and task id, and returns the task for a crash."""
    return lambda *where: TrainingTask(airflow, table, *where, training_service)


def kill_all(airflow, training, dag_id, points):
    """Start one run for all points, and wait until their workers have died.

    Each step goes on until its worker has died; a late one up to its point.
    """
    run_id = airflow.trigger(dag_id)
    tasks = [training(dag_id, run_id, point) for point in points]
    for task in tasks:
        if task.task_id in LATE:
            task.touch("go")
        elif task.task_id.removesuffix("_deferred") in LATE:
            task.wait_started(is_deferred=True)
            task.touch("go")
    for task in tasks:
        task.wait_for("died")
        task.touch("go")
    return dag_id, run_id


def settle(task):
    when, log = POINTS[task.task_id]
    task.settle((WORKER, when), state="success", log=log)
    assert len(task.jobs()) == 1, "no job was created twice"


@pytest.fixture(scope="module")
def run(airflow, training):
    return kill_all(airflow, training, "crash_training", SHORT)


@pytest.mark.parametrize("point", SHORT)
def test_a_worker_is_killed(run, training, point):
    settle(training(*run, point))


@pytest.fixture(scope="module")
def long_run(airflow, training):
    return kill_all(airflow, training, "crash_training_long", LONG)


@pytest.mark.long
@pytest.mark.parametrize("point", LONG)
def test_a_worker_is_killed_at_another_point(long_run, training, point):
    settle(training(*long_run, point))


@pytest.fixture(scope="module")
def survivors(airflow, training):
    """One run for both services. They are killed one after the other, while the steps run."""
    run_id = airflow.trigger("crash_training_services")
    tasks = [training("crash_training_services", run_id, task_id) for task_id in ("triggerer", "scheduler")]
    for task in tasks:
        task.wait_started(is_deferred=task.task_id == "triggerer")
    for task in tasks:
        airflow.kill(task.task_id)
        airflow.start(task.task_id)
    for task in tasks:
        task.touch("go")
    return run_id


KILLED = {
    "triggerer": "the triggerer, while the task is deferred",
    "scheduler": "the scheduler with its workers, while the task waits in the worker",
}


@pytest.mark.parametrize("task_id", KILLED)
def test_a_service_is_killed(survivors, training, task_id):
    task = training("crash_training_services", survivors, task_id)
    task.settle((SERVICE, KILLED[task_id]), state="success", log="the step runs")
    assert len(task.jobs()) == 1, "no job was created twice"
