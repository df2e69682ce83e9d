"""One step per element of a list. Each step is its own job, and the jobs run in parallel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def mapped() -> None:
    """Try several learning rates, and keep the best one."""

    @task
    def learning_rates() -> list[float]:
        return [0.01, 0.1, 0.5, 1.1]

    @task.remote_step(
        resource_settings=ResourceSettings(cpu_count=1),
        timeout=timedelta(minutes=10),
        map_index_template="{{ task.op_kwargs.rate }}",
    )
    def train(rate: float) -> dict[str, Any]:
        """Minimise (w - 4)**2 from w = 0. With a rate of 1 or more the loop does not converge."""
        weight = 0.0
        for _ in range(100):
            weight -= rate * 2 * (weight - 4)
        return {"rate": rate, "loss": (weight - 4) ** 2}

    @task
    def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
        winner = min(runs, key=lambda run: run["loss"])
        print(f"best rate: {winner['rate']} (loss {winner['loss']:.2e})")
        return winner

    best(train.expand(rate=learning_rates()))


mapped()
