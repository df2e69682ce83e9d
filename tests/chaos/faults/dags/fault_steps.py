"""The steps of the fault matrix, and one whose worker is killed at a given point."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from airflow.sdk.bases.decorator import task_decorator_factory

from airflow_stepop.decorators import RemoteStepDecoratedOperator, RemoteStepTaskDecorator
from airflow_stepop.hooks.kubernetes.cluster import Cluster

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))
IS_FULL = bool(os.environ.get("STEPOP_FAULTS_FULL"))
NODE = os.environ.get("STEPOP_TEST_NODE", "unknown")
KILLED = "fault_killed_"
# point -> owner and method, whether before or after the call, and a condition on its first argument
POINTS = {
    "job": ("cluster", "create", "after", lambda kind: kind == "jobs"),
    "secret": ("cluster", "create", "after", lambda kind: kind == "secrets"),
    "release": ("cluster", "patch", "after", lambda kind: kind == "jobs"),
    "saved": ("lifecycle", "_save", "after", lambda record: record.handle and not record.collected),
    "finishing": ("lifecycle", "finish", "before", lambda _: True),
    "read": ("lifecycle", "_save", "before", lambda record: record.collected),
}


class MortalStep(RemoteStepDecoratedOperator):
    """A step whose first worker is killed at the point that the DAG's name ends with."""

    def _open(self, context):
        session = super()._open(context)
        ti = context["ti"]
        name, method, when, is_here = POINTS[ti.dag_id.removeprefix(KILLED)]
        owner = {"cluster": Cluster, "lifecycle": session.lifecycle}[name]
        real, died = getattr(owner, method), MARKS / f"{ti.dag_id}.{ti.run_id}.{ti.map_index}.died"

        def wrapped(*args):
            is_now = is_here(args[1] if name == "cluster" else args[0])
            if is_now and when == "before":
                die(died)
            found = real(*args)
            if is_now and when == "after":
                die(died)
            return found

        setattr(owner, method, wrapped)
        return session


def die(mark: Path) -> None:
    """Kill this process as ``kill -9`` does, but only the first time."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def mortal_step(**arguments):
    """Return ``@task.remote_step`` with :class:`MortalStep`."""

    def decorate(function):
        made = task_decorator_factory(decorated_operator_class=MortalStep, **arguments)(function)
        return RemoteStepTaskDecorator(
            function=made.function,
            multiple_outputs=made.multiple_outputs,
            operator_class=made.operator_class,
            kwargs=made.kwargs,
        )

    return decorate
