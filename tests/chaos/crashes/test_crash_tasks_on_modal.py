"""``kill -9`` of Airflow's processes while steps run in sandboxes of Modal."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from airflow_stepop.hooks.modal.tags import selector
from tests.chaos.crashes.dags.crash_cloud_points import SANDBOX_LONG, SANDBOX_SHORT
from tests.chaos.crashes.killed_workers import CloudTask, kill_all, settle_killed

WORKER = "On Modal, the worker is killed with `kill -9`"
SERVICE = "On Modal, a service of Airflow is killed with `kill -9`"
SERVICES = "crash_sandbox_services"


class SandboxTask(CloudTask):
    """A task whose jobs are sandboxes."""

    def jobs(self) -> dict[str, Any]:
        tags = selector({"dag_id": self.dag_id, "run_id": self.run, "task_id": self.task_id})
        found = self.service.report()["sandboxes"]
        return {key: one for key, one in found.items() if tags.items() <= one["tags"].items()}

    def _processes(self) -> list[Any]:
        return [key for key, one in self.jobs().items() if not one["over"]]


@pytest.fixture(scope="module")
def sandbox(airflow, table, modal_service):
    """Return a function that takes DAG, run and task id, and returns the task for a crash."""
    return lambda *where: SandboxTask(airflow, table, *where, modal_service)


@pytest.fixture(scope="module")
def run(airflow, sandbox):
    return kill_all(airflow, sandbox, "crash_sandbox", SANDBOX_SHORT)


@pytest.mark.parametrize("point", SANDBOX_SHORT)
def test_a_worker_is_killed(run, sandbox, point):
    settle_killed(sandbox(*run, point), WORKER)


@pytest.fixture(scope="module")
def long_run(airflow, sandbox):
    return kill_all(airflow, sandbox, "crash_sandbox_long", SANDBOX_LONG)


@pytest.mark.long
@pytest.mark.parametrize("point", SANDBOX_LONG)
def test_a_worker_is_killed_at_another_point(long_run, sandbox, point):
    settle_killed(sandbox(*long_run, point), WORKER)


def test_a_worker_is_killed_that_waits_for_the_answer_to_its_create(airflow, sandbox, modal_service):
    """The sandbox is there, and Airflow does not know its id."""
    modal_service.do("fault", kind="slow", rpc="SandboxCreate*", delay_s=600.0, after=True, count=1)
    task = sandbox("crash_sandbox_creating", airflow.trigger("crash_sandbox_creating"), "creating")
    airflow.wait_for(task.jobs, "its sandbox", task.logs)
    os.kill(int((airflow.marks / f"{task.mark}.worker").read_text()), signal.SIGKILL)
    task.touch("go")
    task.settle_alone((WORKER, "in the submit, before the answer with the job's id"), "Attached to")


@pytest.fixture(scope="module")
def deferred(airflow, sandbox):
    """Return a function that takes a task id. All are deferred in one run, and watched."""
    run_id = airflow.trigger(SERVICES)
    tasks = {one: sandbox(SERVICES, run_id, one) for one in ("triggerer", "both")}
    for task in tasks.values():
        task.wait_started(is_deferred=True)
    return tasks.__getitem__


def test_the_triggerer_is_killed(airflow, deferred):
    task = deferred("triggerer")
    airflow.kill("triggerer")
    airflow.start("triggerer")
    task.touch("go")
    task.settle_alone((SERVICE, "the triggerer, while the task is deferred"), "the step runs")


def test_the_triggerer_and_the_scheduler_are_killed(airflow, deferred):
    """The step ends while both are away. Its result waits in the Volume."""
    task = deferred("both")
    task.wait_watched()
    for name in ("triggerer", "scheduler"):
        airflow.kill(name)
    task.touch("go")
    airflow.wait_for(lambda: not task._processes(), "the end of its sandbox")
    for name in ("triggerer", "scheduler"):
        airflow.start(name)
    when = "the triggerer and the scheduler, while the task is deferred, and its job ends meanwhile"
    task.settle_alone((SERVICE, when), "the step runs")


@pytest.mark.long
def test_the_scheduler_is_killed_with_its_workers(airflow, sandbox):
    task = sandbox("crash_sandbox_workers", airflow.trigger("crash_sandbox_workers"), "scheduler")
    task.wait_started()
    airflow.kill("scheduler")
    airflow.start("scheduler")
    task.touch("go")
    when = "the scheduler with its workers, while the task waits in the worker"
    task.settle_alone((SERVICE, when), "the step runs")
