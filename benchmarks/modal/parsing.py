"""Measures the CPU time of a DAG file with one task on Modal, on top of what every DAG file loads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import AIRFLOW
from benchmarks.measure import code_cost
from benchmarks.modal.service import Room
from benchmarks.tables import Line, Table

TITLE = "A DAG file with one task, on top of airflow.sdk"
# The checks of our options are in it: a wrong option is an error when the file is parsed
STEP = """
from airflow_stepop.hooks.modal import ModalSettings
@dag(schedule=None)
def training():
    @task.remote_step(backend="modal", settings=ModalSettings(gpu="any", cpu=4.0, memory=16384))
    def train(data):
        return data
    train(1)
training()
assert not any(name.split(".")[0] == "modal" for name in sys.modules)
"""
HOOK = """
from airflow.providers.modal.hooks.modal import ModalHook
@dag(schedule=None)
def training():
    @task
    def train(data):
        ModalHook().create_sandbox
    train(1)
training()
"""
PLAIN = """
@dag(schedule=None)
def training():
    @task
    def train(data):
        return data
    train(1)
training()
"""


def tables(room: Room) -> Iterator[Table]:
    """Yield the CPU milliseconds that the DAG file costs."""
    lines = []
    for name, code in (
        ("a plain @task", PLAIN),
        ("a @task that imports ModalHook of the official provider", HOOK),
        ("airflow-stepop, @task.remote_step, without modal", STEP),
    ):
        cost = code_cost(code, AIRFLOW)
        lines.append(Line(name, cost.cpu_s * 1000, f"{cost.modules} modules"))
    yield Table(TITLE, "ms CPU", lines)
