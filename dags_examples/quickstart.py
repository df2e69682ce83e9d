"""One step between two ordinary tasks. ``make demo`` runs this DAG on this host and needs nothing else."""

from __future__ import annotations

import os
import random
import resource
import socket
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


def whereabouts() -> dict[str, Any]:
    """Return the host and id of the current process, and its peak memory so far in bytes."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"host": socket.gethostname(), "pid": os.getpid(), "peak_memory_bytes": peak_bytes}


@dag(schedule=None, catchup=False, tags=["stepop"])
def quickstart() -> None:
    """Prepare points in Airflow, fit a line to them in a step, and report in Airflow."""

    @task
    def preprocess(count: int = 20_000) -> dict[str, Any]:
        """Make points around the line y = 3x + 2."""
        source = random.Random(7)  # the same points every time
        x = [source.uniform(-1, 1) for _ in range(count)]
        y = [3 * value + 2 + source.gauss(0, 0.1) for value in x]
        return {"x": x, "y": y, "ran": whereabouts()}

    @task.remote_step(
        resource_settings=ResourceSettings(cpu_count=1, memory="1GiB"),
        timeout=timedelta(minutes=10),
    )
    def train(data: dict[str, Any], rate: float = 0.3, epochs: int = 40) -> dict[str, Any]:
        """Fit the line by gradient descent. This function runs in its own process, outside Airflow."""
        slope = intercept = 0.0
        for epoch in range(1, epochs + 1):
            errors = [slope * x + intercept - y for x, y in zip(data["x"], data["y"], strict=True)]
            slope -= rate * 2 * sum(e * x for e, x in zip(errors, data["x"], strict=True)) / len(errors)
            intercept -= rate * 2 * sum(errors) / len(errors)
            if epoch % 10 == 0:
                print(f"epoch {epoch}: mean error {sum(map(abs, errors)) / len(errors):.4f}")
        return {"slope": round(slope, 3), "intercept": round(intercept, 3), "ran": whereabouts()}

    @task
    def report(data: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        """Print the fitted line."""
        line = f"y = {model['slope']}x + {model['intercept']}"
        print(f"{line}, from {len(data['x'])} points, fitted by process {model['ran']['pid']}")
        return {"line": line, "ran": whereabouts()}

    data = preprocess()
    report(data, train(data))


quickstart()
