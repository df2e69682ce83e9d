"""A step that is a command: it reads files and writes files, and knows nothing of Airflow."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import RemoteStepOperator, ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def command_step() -> None:
    """Hand a model to ``score.py``, which lies beside this file, and read the metrics that it writes."""

    @task
    def train() -> bytes:
        return json.dumps({"slope": 3.0, "intercept": 2.0}).encode()

    score = RemoteStepOperator(
        task_id="score",
        command=["python3", "score.py"],
        inputs={"model.bin": train()},
        outputs=["metrics.json"],
        resource_settings=ResourceSettings(cpu_count=1, memory="512MiB"),
        timeout=timedelta(minutes=10),
    )

    @task
    def report(files: dict[str, Any]) -> str:
        print(files)
        return str(files)

    report(score.output)


command_step()
