"""Measures the duration of a task that does nothing in a real Airflow, for each way to run the task.

``__main__.py`` calls :func:`latency_lines`. ``kubernetes/latency.py`` uses the other functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import IS_SHORT
from benchmarks.tables import Line

ROOT = Path(__file__).resolve().parents[1]
RUNS = 1 if IS_SHORT else 5
NAMES = {
    "defer_once": "a task of Airflow that defers once",
    "step_deferred": "a no-op step that waits in the triggerer",
    "plain": "a plain @task",
    "step_in_worker": "a no-op step that waits in the worker",
    "external_python": "@task.external_python",
    "virtualenv": "@task.virtualenv, without requirements",
}
MARGIN_S = 0.3  # goal: a step may take this much longer than Airflow's own deferral


def latency_lines() -> Iterator[Line]:
    """Yield the median duration of each task in seconds, from Airflow's database."""
    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as home:
        airflow = deployment()(Path(home) / "airflow", ROOT / "benchmarks" / "dags")
        try:
            airflow.up()
            runs = [durations(airflow, "latency", NAMES) for _ in range(RUNS)]
        finally:
            airflow.down()
    medians = {name: median(run[name] for run in runs) for name in NAMES}
    for name, text in NAMES.items():
        goal = medians["defer_once"] + MARGIN_S if name == "step_deferred" else None
        yield Line(text, medians[name], goal=goal)


def durations(airflow: Any, dag: str, names: Iterable[str]) -> dict[str, float]:
    """Run a DAG, and return the duration of each task in seconds.

    :raises RuntimeError: a task failed
    """
    run = airflow.trigger(dag)
    states = airflow.wait_run(dag, run)
    failed = [name for name, state in states.items() if state != "success"]
    if failed:
        raise RuntimeError(f"{failed[0]} failed:\n{airflow.log(dag, run, failed[0])}")
    return {name: float(airflow.instance(dag, run, name)["duration"]) for name in names}


def deployment() -> Any:
    """Return the class of the tests that starts a real Airflow."""
    from tests.support.deployment import Deployment

    return Deployment
