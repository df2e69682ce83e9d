"""Functions from modules next to the DAG file. The step gets these modules too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task
from houses.data import load
from houses.model import fit, predict

from airflow_stepop import ResourceSettings


@dag(schedule=None, catchup=False, tags=["stepop"])
def mixed_pipeline() -> None:
    """Load in Airflow, fit a model in a step, check the model in a second step, and decide in Airflow."""
    small = ResourceSettings(cpu_count=1, memory="512MiB")

    load_houses = task(load)
    fit_prices = task.remote_step(resource_settings=small, timeout=timedelta(minutes=10))(fit)

    @task.remote_step(resource_settings=small, timeout=timedelta(minutes=10))
    def check(model: dict[str, float], houses: list[dict[str, float]]) -> float:
        """Return the mean relative error. The step imports a helper module when it runs."""
        from houses.metrics import relative_error

        return relative_error(
            [predict(model, house) for house in houses], [house["price"] for house in houses]
        )

    @task
    def decide(model: dict[str, float], error: float) -> dict[str, Any]:
        print(f"mean relative error {error:.1%}")
        return {"is_good": error < 0.1, "error": error, **model}

    houses = load_houses()
    model = fit_prices(houses)
    decide(model, check(model, houses))


mixed_pipeline()
