"""Steps that run as SageMaker training jobs, between tasks of Airflow."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
STEP = {"backend": "sagemaker", "image": IMAGE}


class Model:
    """A class of the DAG file, which no data codec knows."""

    def __init__(self, weights):
        self.weights = weights


class UnluckyError(Exception):
    """An exception of the DAG file."""


def called_back(context):
    (MARKS / "called_back").write_text(f"{context['task'].task_id}: {context['exception']}")


with DAG("training", schedule=None, default_args={"retries": 0}):

    @task
    def numbers():
        return [1, 2, 3]

    @task.remote_step(**STEP)
    def small(values, name, *, factor):
        import os

        print(f"the log of {name}")
        return {"sum": sum(values) * factor, "job": os.environ["TRAINING_JOB_NAME"]}

    @task.remote_step(**STEP)
    def nothing():
        return None

    @task.remote_step(**STEP, deferrable=True)
    def large():
        import numpy as np

        return np.arange(500_000, dtype="float64")

    @task.remote_step(**STEP)
    def reads_array(array):
        return [float(array.sum()), str(array.dtype), len(array)]

    @task
    def reads_array_here(array):
        array[0] = 1.0  # it can be written to
        return [float(array.sum()), str(array.dtype), len(array)]

    @task.remote_step(backend="local")
    def reads_array_locally(array):
        return [float(array.sum()), str(array.dtype), len(array)]

    @task.remote_step(**STEP)
    def table():
        import pandas as pd

        return pd.DataFrame({"a": range(20_000), "b": ["text"] * 20_000})

    @task.remote_step(**STEP)
    def reads_table(frame):
        return [int(frame["a"].sum()), list(frame.columns), len(frame)]

    @task.remote_step(**STEP)
    def model():
        import numpy as np

        return Model(np.ones(100_000))

    @task
    def reads_model(found):
        return [type(found).__name__, float(found.weights.sum())]

    @task.remote_step(**STEP, multiple_outputs=True)
    def outputs():
        return {"small": 1, "large": b"x" * 200_000}

    @task.remote_step(**STEP)
    def reads_outputs(one, other):
        return [one, len(other)]

    @task.remote_step(**STEP)
    def squares(number):
        return number * number

    @task.remote_step(**STEP)
    def total(found):
        return sum(found)

    @task.remote_step(**STEP)
    def many_values():
        return [b"%d" % number * 50_000 for number in range(3)]

    @task
    def length(item):
        return len(item)

    @task.remote_step(**STEP, on_failure_callback=called_back)
    def raises():
        raise UnluckyError("out of luck")

    @task.remote_step(**STEP, deferrable=True)
    def raises_deferred():
        return 1 // 0

    @task.remote_step(**STEP)
    def exits():
        import os

        os._exit(7)

    @task.remote_step(**STEP, secrets={"TOKEN": "{{ conn.hidden.password }}"})
    def secret():
        import os

        return len(os.environ["TOKEN"])

    @task.remote_step(**STEP, checkpoint=True, retries=1, retry_delay=timedelta(0), retry_policy=None)
    def resumes():
        import os
        from pathlib import Path

        mark = Path(os.environ["STEPOP_CHECKPOINT_DIR"], "mark")
        if mark.exists():
            return mark.read_text()
        mark.write_text("of the first try")
        raise RuntimeError("the first try")

    @task.remote_step(
        **STEP,
        requirements=["stepop_dep==1.0"],
        env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "{{ var.value.training_wheels }}"},
    )
    def requires():
        import stepop_dep

        return stepop_dep.VERSION

    @task
    def reads_usage(ti=None):
        return ti.xcom_pull(task_ids="small", key="usage")["wall_s"]

    first = small(numbers(), "small", factor=2)
    first >> reads_usage()
    small.override(task_id="small_deferred", deferrable=True)([4], "small_deferred", factor=1)
    nothing()
    array = large()
    reads_array(array)
    reads_array.override(task_id="reads_array_deferred", deferrable=True)(array)
    reads_array_here(array)
    reads_array_locally(array)
    reads_table(table())
    reads_model(model())
    found = outputs()
    reads_outputs(found["small"], found["large"])
    total(squares.expand(number=[1, 2, 3]))
    length.expand(item=many_values())
    raises()
    raises_deferred()
    exits()
    secret()
    resumes()
    requires()
    RemoteStepOperator(
        task_id="command",
        command=["sh", "-c", "cat in.txt > out.txt; echo 'to the log'"],
        inputs={"in.txt": b"x" * 100_000},
        outputs=["out.txt"],
        **STEP,
    )
    RemoteStepOperator(task_id="command_fails", command=["sh", "-c", "echo oh no; exit 3"], **STEP)
    RemoteStepOperator(task_id="too_long", command=["sleep", "600"], timeout=timedelta(seconds=70), **STEP)
