"""Steps that run as SageMaker training jobs until their test lets them go."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

MARKS = os.environ.get("STEPOP_TEST_MARKS", "/nonexistent")
STEP = {"backend": "sagemaker", "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"}
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
    return {"number": number, "job": os.environ["TRAINING_JOB_NAME"]}


def step(name, way, **options):
    return task.remote_step(task_id=name, deferrable=WAYS[way], **STEP, **options)(waits)


with DAG("training_log", schedule=None):
    step("waits", "deferred")(f"{MARKS}/training_log")

with DAG("training_ten", schedule=None):
    step("waits", "deferred").partial(mark=f"{MARKS}/training_ten").expand(number=list(range(10)))

with DAG("training_user", schedule=None):
    for way in WAYS:
        for act in ("failed", "cleared"):
            step(f"{act}_{way}", way)(f"{MARKS}/training_user.{act}_{way}")

with DAG("training_faults", schedule=None):
    for way in WAYS:
        step(way, way)(f"{MARKS}/training_faults.{{{{ run_id }}}}.{way}")
