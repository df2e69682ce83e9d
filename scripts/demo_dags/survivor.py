"""A step that takes a while. ``make demo ARGS=--kill`` kills the worker that waits for it."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

PARTS = 12


@dag(schedule=None, catchup=False)
def survivor() -> None:
    @task.remote_step(backend="local", timeout=timedelta(minutes=10))
    def work(parts: int = PARTS) -> dict[str, Any]:
        """Print a line per second, and return what this process has done."""
        for part in range(1, parts + 1):
            print(f"part {part} of {parts}, done by process {os.getpid()}")
            time.sleep(1)
        return {"parts": parts, "pid": os.getpid()}

    work()


survivor()
