"""Steps of each kind that leave something behind."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, ResourceSettings

with DAG("upkeep", schedule=None, default_args={"retries": 0}):

    @task.remote_step(keep="always", resource_settings=ResourceSettings(cpu_count=1, memory="512MiB"))
    def large(size=100_000):
        print("writing", size)
        return b"x" * size

    @task.remote_step
    def takes(value):
        return len(value)

    @task.remote_step(multiple_outputs=True)
    def outputs():
        return {"first": b"a" * 100_000, "second": b"b" * 100_000}

    @task.remote_step
    def several():
        return [b"c" * 100_000, b"d" * 100_000]

    takes(large())
    outputs()
    takes.override(task_id="each").expand(value=several())
    RemoteStepOperator(task_id="fails", command=["sh", "-c", "echo so long; exit 3"])
    RemoteStepOperator(task_id="quiet", command=["true"], keep="never")
