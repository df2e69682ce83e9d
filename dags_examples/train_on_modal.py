"""Prepare in Airflow, train on a GPU of Modal, report in Airflow. No cluster and no bucket.

This DAG needs credentials: the connection ``modal_default`` (type ``modal``), or ``modal token new``
for the user of Airflow; and ``pip install '.[modal]'`` in a clone. Modal's own image will do.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def train_on_modal() -> None:
    """Send values into a sandbox, and get a large value back, which the next task loads from the store."""

    @task
    def preprocess(count: int = 2_000) -> list[float]:
        return [x / count for x in range(count)]

    @task.remote_step(
        backend="modal",
        resource_settings=ResourceSettings(cpu_count=1, memory="1GB"),
        settings={"gpu": "any"},  # the cheapest kind
        timeout=timedelta(hours=1),
    )
    def train(points: list[float]) -> list[float]:
        """Stand for a training: fill 'weights' of some 100 KB."""
        import os

        print(f"training in the container {os.environ.get('MODAL_TASK_ID', 'of no name')}")
        return [sum(points) * index for index in range(10_000)]

    @task
    def report(weights: list[float]) -> str:
        text = f"{len(weights)} weights, the last one is {weights[-1]:.1f}"
        print(text)
        return text

    report(train(preprocess()))


train_on_modal()
