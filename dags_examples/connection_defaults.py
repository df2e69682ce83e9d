"""A step that says what it does; its connection says where it runs, and with what.

The connection is what other tools call a registered step operator. Add it once::

    airflow connections add training --conn-json '{"conn_type": "generic", "extra": {"stepop": {
        "backend": "local", "resource_settings": {"memory": "1GiB"}, "env": {"EPOCHS": "60"},
        "timeout": 600}}}'

Another cluster, image or limit is then an edit of the connection, and of no DAG file.
``airflow stepop describe training`` shows what a step gets from it.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings, remote_step


@remote_step(conn_id="training")
def train(points: list[list[float]]) -> dict[str, Any]:
    """Fit the line by gradient descent, for as many epochs as the connection says."""
    epochs = int(os.environ.get("EPOCHS", "40"))
    slope = offset = 0.0
    for _ in range(epochs):
        errors = [(slope * x + offset - y, x) for x, y in points]
        slope -= 2 * sum(error * x for error, x in errors) / len(points)
        offset -= 0.5 * sum(error for error, _ in errors) / len(points)
    return {"slope": round(slope, 2), "offset": round(offset, 2), "epochs": epochs}


@dag(schedule=None, catchup=False, tags=["stepop"])
def connection_defaults() -> None:
    """Train twice: as the connection says, and with one thing changed by the task."""

    @task
    def preprocess(count: int = 500) -> list[list[float]]:
        """Make points of the line y = 3x + 2."""
        return [[x / count, 3 * x / count + 2] for x in range(count)]

    @task
    def report(usual: dict[str, Any], longer: dict[str, Any]) -> dict[str, Any]:
        """Show both lines."""
        for model in (usual, longer):
            print(f"y = {model['slope']}x + {model['offset']} after {model['epochs']} epochs")
        return {"usual": usual["epochs"], "longer": longer["epochs"]}

    points = preprocess()
    more = {"env": {"EPOCHS": "200"}, "resource_settings": ResourceSettings(cpu_count=1)}
    report(train(points), train.override(task_id="train_longer", **more)(points))


connection_defaults()
