"""DAGs with steps of one backend that wait for their test; see ``tests/support/deployed_steps.py``."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

MARKS = os.environ.get("STEPOP_TEST_MARKS", "/nonexistent")
WAYS = {"running": False, "deferred": True}


def waits(mark, number=0):
    import os
    import time
    from pathlib import Path

    print(f"line one of {mark}", flush=True)
    with Path(f"{mark}.started").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(f"{mark}.go").exists():
        time.sleep(0.1)
    print(f"line two of {mark}", flush=True)
    return {"number": number, "job": os.environ["STEPOP_JOB"]}


def step(name, way, **options):
    return task.remote_step(task_id=name, deferrable=WAYS[way], **options)(waits)


def dags_of(prefix, *, for_faults=None, **options):
    """Return DAG id -> DAG: one step, ten steps, steps that a user ends, and steps for faults.

    :param prefix: of the ids of the DAGs
    :param for_faults: way of waiting -> other options of the step for faults that waits so
    :param options: of each step
    """
    with DAG(f"{prefix}_log", schedule=None) as log:
        step("waits", "deferred", **options)(f"{MARKS}/{prefix}_log")

    with DAG(f"{prefix}_ten", schedule=None) as ten:
        step("waits", "deferred", **options).partial(mark=f"{MARKS}/{prefix}_ten").expand(
            number=list(range(10))
        )

    with DAG(f"{prefix}_user", schedule=None) as user:
        for way in WAYS:
            for act in ("failed", "cleared"):
                step(f"{act}_{way}", way, **options)(f"{MARKS}/{prefix}_user.{act}_{way}")

    with DAG(f"{prefix}_faults", schedule=None) as faults:
        for way in WAYS:
            own = {**options, **(for_faults or {}).get(way, {})}
            step(way, way, **own)(f"{MARKS}/{prefix}_faults.{{{{ run_id }}}}.{way}")

    return {dag.dag_id: dag for dag in (log, ten, user, faults)}
