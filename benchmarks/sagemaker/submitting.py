"""Measures the cost of a submit in a worker, beside the operator: CPU time, and requests."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import AIRFLOW, OPERATORS, OURS
from benchmarks.measure import REPEATS, WARMING, code_cost
from benchmarks.sagemaker import submits
from benchmarks.sagemaker.service import LONG_S, Room, variables
from benchmarks.tables import Line, Table

OPERATOR = "SageMakerTrainingOperator"
# name of a function in submits.py -> text, and what the worker has imported with the DAG file
WAYS = {
    "bare": ("boto3, one CreateTrainingJob", ""),
    "operator": (f"{OPERATOR}, deferrable, until it defers", OPERATORS[OPERATOR]),
    "ours": ("airflow-stepop", OURS),
}


def tables(room: Room) -> Iterator[Table]:
    """Yield the CPU time and the requests of one submit in a fresh process, on top of Airflow."""
    given = {
        submits.IMAGE: room.service.image,
        submits.ROLE: room.service.role,
        submits.BUCKET: room.service.s3.bucket,
        submits.URL: room.service.url,
    }
    with variables(given):
        yield from _tables(room)


def _tables(room: Room) -> Iterator[Table]:
    room.service.do("settings", rates="real")
    room.service.do("plan", job="*", run=False, train_s=LONG_S)
    times, requests = [], []
    for way, (text, imported) in WAYS.items():
        before = room.answers()
        cost = code_cost(f"from benchmarks.sagemaker.submits import {way}; {way}()", f"{AIRFLOW}\n{imported}")
        sent = room.answers() - before
        note = f"loads {cost.modules} modules that its DAG file has not loaded"
        times.append(Line(text, cost.cpu_s * 1000, note))
        number = (sent.states() + sent.logs()) / (REPEATS + WARMING)
        requests.append(Line(text, number, "and those to S3" if way == "ours" else ""))
    yield Table("Submission of a step: CPU of the worker", "ms", times)
    yield Table("Submission of a step: requests", "requests", requests)
