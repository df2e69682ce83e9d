"""A step that runs a command. The command reads files and writes files, and does not use Airflow."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import RemoteStepOperator, ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def command_step() -> None:
    """Pass a model to ``score.py``, a file next to this one, and read the metrics that the command writes."""
    small = ResourceSettings(cpu_count=1, memory="512MiB")

    @task.remote_step(resource_settings=small, timeout=timedelta(minutes=10))
    def train() -> bytes:
        """Return bytes, which an ordinary task cannot do. The next step gets the bytes as a file."""
        return json.dumps({"slope": 3.0, "intercept": 2.0}).encode()

    score = RemoteStepOperator(
        task_id="score",
        command=["python3", "score.py"],
        inputs={"model.bin": train()},
        outputs=["metrics.json"],
        resource_settings=small,
        timeout=timedelta(minutes=10),
    )

    @task
    def report(metrics: dict[str, Any]) -> str:
        print(f"largest error over {metrics['points']} points: {metrics['largest_error']}")
        return f"largest error {metrics['largest_error']}"

    report(score.output["metrics.json"])


command_step()
