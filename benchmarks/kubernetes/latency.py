"""Measures the duration of a task in a real Airflow whose pod does nothing, for each way to run the task."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from benchmarks import latency
from benchmarks.kubernetes.cluster import CONN_ID, Life, Lives, Room
from benchmarks.tables import Line, Table

DAG = "noop"
RUNS = 5
MARGIN_S = 1.5  # goal: a step may take this much longer than its pod's life and Airflow's own deferral
OURS = "airflow-stepop, deferred"
ALONE = {"defer_once": "a task of Airflow that defers once", "plain": "a plain @task"}
# task, in the order of the DAG -> text, prefix of the pod's name
PODS = {
    "step_deferred": (OURS, "s-"),
    "step_in_worker": ("airflow-stepop, waiting in the worker", "s-"),
    "pod_deferred": ("KubernetesPodOperator, deferred", "pod-deferred"),
    "pod_in_worker": ("KubernetesPodOperator, waiting in the worker", "pod-in-worker"),
}


def tables(room: Room) -> Iterator[Table]:
    """Yield the median duration of each task in seconds, from Airflow's database."""
    variable = f"AIRFLOW_CONN_{CONN_ID.upper()}"
    env = {
        variable: os.environ[variable],
        "AIRFLOW__STEPOP__POLL_INTERVAL": str(KubernetesStepHook.poll_interval_s),
    }
    with (
        tempfile.TemporaryDirectory(prefix="stepop-bench-") as home,
        Lives(room.namespace).seen() as lives,
    ):
        airflow = latency.deployment()(Path(home) / "airflow", Path(__file__).parent / "dags", env)
        try:
            airflow.up()
            names = [*ALONE, *PODS]
            runs = [latency.durations(airflow, DAG, names) for _ in range(RUNS)]
        finally:
            airflow.down()
    yield Table("A task that does nothing in a pod, in a real Airflow", "s", _lines(runs, lives))


def _lines(runs: list[dict[str, float]], lives: Lives) -> Iterator[Line]:
    medians = {name: median(run[name] for run in runs) for name in runs[0]}
    for name, text in ALONE.items():
        yield Line(text, medians[name])
    for name, (text, begin) in PODS.items():
        found = _lives_of(name, lives.of(begin))
        life_s = median(life.seconds for life in found)
        goal = life_s + medians["defer_once"] + MARGIN_S if name == "step_deferred" else None
        yield Line(text, medians[name], f"its pod lives {life_s:.2f} s", goal)


def _lives_of(name: str, found: list[Life]) -> list[Life]:
    """Return the lives of one task's pods. Both tasks of ours share a prefix; the deferred one runs first."""
    if not name.startswith("step_"):
        return found
    return found[0 if name == "step_deferred" else 1 :: 2]
