"""Workers of steps in a cloud, killed at many points in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.chaos.crashes.crash_table import CrashedTask
from tests.chaos.crashes.worker_points import LATE, POINTS


@dataclass(frozen=True)
class CloudTask(CrashedTask):
    """A task whose processes are those of its jobs in the emulator of a cloud."""

    service: Any = None

    def jobs(self) -> dict[str, Any]:
        """Return the jobs of the task: id or name -> what the emulator knows."""
        raise NotImplementedError

    def settle_alone(self, title: tuple[str, str], log: str) -> None:
        """Wait until the task is over, and add its row: it has succeeded, with one job."""
        self.settle(title, state="success", log=log)
        assert len(self.jobs()) == 1, "no job was created twice"


def kill_all(airflow: Any, task_of: Callable[..., CloudTask], dag_id: str, points: Iterable[str]) -> Any:
    """Start one run for all points, and wait until their workers have died; return DAG id and run id.

    Each step goes on until its worker has died; a late one up to its point.
    """
    run_id = airflow.trigger(dag_id)
    tasks = [task_of(dag_id, run_id, point) for point in points]
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


def settle_killed(task: CloudTask, group: str) -> None:
    """Add the row of a task of :func:`kill_all`."""
    when, log = POINTS[task.task_id]
    task.settle_alone((group, when), log)
