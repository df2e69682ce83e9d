"""``kill -9`` of Airflow's processes while steps run as SageMaker training jobs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.crashes.dags.crash_cloud_points import LONG, SHORT
from tests.chaos.crashes.killed_workers import CloudTask, kill_all, settle_killed

WORKER = "On SageMaker, the worker is killed with `kill -9`"
SERVICE = "On SageMaker, a service of Airflow is killed with `kill -9`"
OVER = {"Completed", "Failed", "Stopped"}


class TrainingTask(CloudTask):
    """A task whose jobs are training jobs."""

    def jobs(self) -> dict[str, Any]:
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


@pytest.fixture(scope="module")
def run(airflow, training):
    return kill_all(airflow, training, "crash_training", SHORT)


@pytest.mark.parametrize("point", SHORT)
def test_a_worker_is_killed(run, training, point):
    settle_killed(training(*run, point), WORKER)


@pytest.fixture(scope="module")
def long_run(airflow, training):
    return kill_all(airflow, training, "crash_training_long", LONG)


@pytest.mark.long
@pytest.mark.parametrize("point", LONG)
def test_a_worker_is_killed_at_another_point(long_run, training, point):
    settle_killed(training(*long_run, point), WORKER)


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
    task.settle_alone((SERVICE, KILLED[task_id]), "the step runs")
