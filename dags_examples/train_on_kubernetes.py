"""Prepare in Airflow, train on a Kubernetes cluster, report in Airflow.

This DAG needs the connection ``kubernetes_default`` (type ``kubernetes``), or an Airflow that runs in the
cluster itself. It also needs ``pip install '.[kubernetes]'`` in a clone. The image is a plain Python image,
so you build no image.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def train_on_kubernetes() -> None:
    """Send values into the pod, and get a value back as the task's XCom. Small values need no bucket."""

    @task
    def preprocess(count: int = 2_000) -> list[list[float]]:
        """Make points of the line y = 3x + 2."""
        return [[x / count, 3 * x / count + 2] for x in range(count)]

    @task.remote_step(
        backend="kubernetes",
        resource_settings=ResourceSettings(cpu_count=0.5, memory="256MiB"),
        timeout=timedelta(minutes=10),
    )
    def train(points: list[list[float]], epochs: int = 200) -> dict[str, Any]:
        """Fit the line by gradient descent, in a pod."""
        import socket

        slope = offset = 0.0
        losses = []
        for _ in range(epochs):
            errors = [(slope * x + offset - y, x) for x, y in points]
            slope -= 2 * sum(error * x for error, x in errors) / len(points)
            offset -= 0.5 * sum(error for error, _ in errors) / len(points)
            losses.append(sum(error * error for error, _ in errors) / len(points))
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.6f}")
        return {"slope": slope, "offset": offset, "losses": losses, "host": socket.gethostname()}

    @task
    def report(model: dict[str, Any]) -> str:
        text = f"y = {model['slope']:.2f}x + {model['offset']:.2f}, fitted on {model['host']}"
        print(text)
        return text

    report(train(preprocess()))


train_on_kubernetes()
