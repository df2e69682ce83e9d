"""Measures the cost of a submit in a worker, beside a bare sandbox with a Volume: time, CPU, and requests."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import AIRFLOW, OURS
from benchmarks.measure import REPEATS, WARMING, code_cost
from benchmarks.modal import submits
from benchmarks.modal.service import Room
from benchmarks.processes import variables
from benchmarks.tables import Line, Table
from tests.support.modal import TOKEN_ID, TOKEN_SECRET
from tests.support.modal_many import LONG_S

# name of a function in submits.py -> text, and what the worker has imported with the DAG file
WAYS = {
    "bare": ("modal alone, a sandbox with a file in a Volume", ""),
    "ours": ("airflow-stepop", OURS),
}
TITLE = "Submission of a step, in a fresh process"


def tables(room: Room) -> Iterator[Table]:
    """Yield the CPU time and the requests of one submit, on top of Airflow."""
    room.service.do("plan", sandbox="*", run=False, run_s=LONG_S)
    times, requests = [], []
    with variables({submits.TOKEN: f"{TOKEN_ID} {TOKEN_SECRET}"}):
        for way, (text, imported) in WAYS.items():
            before = room.calls()
            cost = code_cost(f"from benchmarks.modal.submits import {way}; {way}()", f"{AIRFLOW}\n{imported}")
            sent, runs = room.calls() - before, REPEATS + WARMING
            note = f"loads {cost.modules} modules that its DAG file has not loaded"
            times.append(Line(text, cost.cpu_s * 1000, note))
            names = ", ".join(
                f"{count / runs:.3g} {rpc}" for rpc, count in sorted(sent.by_rpc().items()) if count >= runs
            )
            requests.append(Line(text, sent.of() / runs, names))
    yield Table(f"{TITLE}: CPU", "ms", times)
    yield Table(f"{TITLE}: requests", "requests", requests)
