"""Prepare in Airflow, train on Amazon SageMaker with Spot capacity, report in Airflow.

This DAG needs the connection ``aws_default`` (type ``aws``), whose extra names the role of the jobs:
``{"region_name": "us-east-1", "stepop": {"settings": {"role": "arn:aws:iam::...:role/..."}}}``. It also
needs ``[stepop] store = s3://aws_default@BUCKET/PREFIX``, and ``pip install '.[sagemaker]'`` in a clone. The
image is one of AWS, so you build no image.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def train_on_sagemaker() -> None:
    """Send values into a training job, and get a value back as the task's XCom."""

    @task
    def preprocess(count: int = 2_000) -> list[list[float]]:
        """Make points of the line y = 3x + 2."""
        return [[x / count, 3 * x / count + 2] for x in range(count)]

    @task.remote_step(
        backend="sagemaker",
        image="pytorch",  # the newest image of AWS with this Python
        resource_settings=ResourceSettings(cpu_count=2, memory="4GB"),
        settings={"use_spot_instances": True},
        timeout=timedelta(hours=1),
        checkpoint=True,
    )
    def train(points: list[list[float]], epochs: int = 200) -> dict[str, Any]:
        """Fit the line by gradient descent. After a Spot interruption, go on where the last epoch ended."""
        import json
        import os
        from pathlib import Path

        saved = Path(os.environ["STEPOP_CHECKPOINT_DIR"]) / "state.json"
        slope, offset, losses = json.loads(saved.read_text()) if saved.exists() else (0.0, 0.0, [])
        for _ in range(len(losses), epochs):
            errors = [(slope * x + offset - y, x) for x, y in points]
            slope -= 2 * sum(error * x for error, x in errors) / len(points)
            offset -= 0.5 * sum(error for error, _ in errors) / len(points)
            losses.append(sum(error * error for error, _ in errors) / len(points))
            saved.write_text(json.dumps([slope, offset, losses]))
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.6f}")
        return {"slope": slope, "offset": offset, "losses": losses}

    @task
    def report(model: dict[str, Any]) -> str:
        text = f"y = {model['slope']:.2f}x + {model['offset']:.2f} after {len(model['losses'])} epochs"
        print(text)
        return text

    report(train(preprocess()))


train_on_sagemaker()
