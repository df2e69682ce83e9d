"""Measures the cost of waiting steps in a triggerer. Each way to wait is measured in a fresh process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_stepop.job import JobHandle
from benchmarks.kubernetes import cluster
from benchmarks.kubernetes.cluster import CONN_ID, IS_SHORT, Requests, Room
from benchmarks.measure import environment
from benchmarks.tables import Line, Table

JOBS = 20 if IS_SHORT else 1000
MORE = 0 if IS_SHORT else 5000
OBSERVED_S = 3.0 if IS_SHORT else 60.0
FIRST_S = 3.0 if IS_SHORT else 15.0  # for JOBS steps: wait before measuring, since the start costs more
SUBMIT_S = 20 if IS_SHORT else 120  # time for submitting all steps, until all run
MIB = 2**20
OURS, POD_OPERATOR = "airflow-stepop", "KubernetesPodOperator"


@dataclass(frozen=True)
class Cost:
    """The cost of one process.

    :param requests: requests a minute, without those for logs
    :param logs: requests for logs a minute
    :param share: share of a core, from 0 to 1
    :param memory_bytes: memory in addition to a process that has imported nothing for the cluster
    :param ended: number of triggers that fired meanwhile
    """

    requests: float
    logs: float
    share: float
    memory_bytes: int
    ended: int


def tables(room: Room) -> Iterator[Table]:
    """Yield requests, CPU share and memory for a thousand waiting steps, and for more steps."""
    few, more = room.count(JOBS), room.count(MORE)
    costs: list[tuple[str, Cost, bool]] = []
    handles = cluster.started([room.step() for _ in range(few)])
    costs.append(
        (f"{POD_OPERATOR}, {few} pods", observed(POD_OPERATOR, cluster.pod_names(room.namespace)), False)
    )
    costs.append((f"{OURS}, {few} steps", observed(OURS, _json(handles)), True))
    if more > few:
        handles += cluster.started([room.step() for _ in range(more - few)])
        cost = observed(OURS, _json(handles), FIRST_S * more / few)
        costs.append((f"{OURS}, {more} steps", cost, False))
    cluster.emptied(room.namespace)
    if room.is_played and not IS_SHORT:
        cost = _while_they_end(room, few)
        costs.append((f"{OURS}, {few} steps of which {cost.ended} end meanwhile", cost, False))
    yield Table("Waiting for steps: status requests", "a minute", [
        Line(name, cost.requests, f"and {cost.logs:.0f} for logs", 60 if is_goal else None)
        for name, cost, is_goal in costs
    ])  # fmt: skip
    yield Table("Waiting for steps: share of a core", "%", [
        Line(name, cost.share * 100, goal=3 if is_goal else None) for name, cost, is_goal in costs
    ])  # fmt: skip
    yield Table("Waiting for steps: memory of the triggerer", "MiB", [
        Line(name, cost.memory_bytes / MIB, goal=100e6 / MIB if is_goal else None)
        for name, cost, is_goal in costs
    ])  # fmt: skip


def _while_they_end(room: Room, count: int) -> Cost:
    """Measure while the steps end one after the other."""
    span_s = FIRST_S + OBSERVED_S + 10
    steps = [room.step(round(SUBMIT_S + span_s * number / count)) for number in range(count)]
    began = time.monotonic()
    handles = cluster.started(steps)
    return observed(OURS, _json(handles), max(SUBMIT_S - (time.monotonic() - began), FIRST_S))


def _json(handles: Sequence[JobHandle]) -> list[Any]:
    return [handle.to_json() for handle in handles]


def observed(way: str, jobs: Sequence[Any], first_s: float = FIRST_S) -> Cost:
    """Return the cost of a new process that waits for the jobs.

    :param way: key of :data:`WAYS`
    :param jobs: handles as JSON, or names of pods
    :param first_s: seconds before the measurement begins
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"way": way, "jobs": jobs, "first_s": first_s}, file)
        file.flush()
        argv = [sys.executable, "-m", "benchmarks.kubernetes.waiting", file.name]
        path = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            argv, env=environment() | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{way} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


# -- in the new process


def main() -> None:
    import airflow.triggers.base  # noqa: F401 - every triggerer has imported it

    logging.disable(logging.CRITICAL)
    given = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(_tell(given["way"], given["jobs"], given["first_s"]))


async def _tell(way: str, jobs: Sequence[Any], first_s: float) -> None:
    """Print the cost and exit at once, because the operator's triggers may not react to a cancellation."""
    print(json.dumps(asdict(await _observe(way, jobs, first_s))), flush=True)
    os._exit(0)


async def _observe(way: str, jobs: Sequence[Any], first_s: float) -> Cost:
    memory = _memory_bytes()
    requests = Requests.counted(is_asyncio=way == POD_OPERATOR, has_logs=False)
    tasks = [asyncio.create_task(_fired(trigger)) for trigger in WAYS[way](jobs)]
    await asyncio.sleep(first_s)
    before, cpu, begin = requests.now(), time.process_time(), time.monotonic()
    ended = sum(task.done() for task in tasks)
    await asyncio.sleep(OBSERVED_S)
    seconds = time.monotonic() - begin
    cpu, sent = time.process_time() - cpu, requests - before
    ended = sum(task.done() for task in tasks) - ended
    for task in tasks:
        if task.done():
            task.result()  # raises the error of a trigger that failed
    memory = _memory_bytes() - memory
    a_minute = 60 / seconds
    return Cost(sent.states * a_minute, sent.logs * a_minute, cpu / seconds, memory, ended)


async def _fired(trigger: Any) -> Any:
    async for event in trigger.run():
        if event.payload.get("status") == "error" or event.payload.get("error"):
            raise RuntimeError(event.payload)
        return event


def _memory_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _our_triggers(jobs: Sequence[Any]) -> list[Any]:
    from airflow_stepop.hooks.kubernetes import KubernetesStepHook
    from airflow_stepop.triggers import RemoteStepTrigger

    waiter = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": -1, "since": time.time()}
    found = [RemoteStepTrigger(job, {}, KubernetesStepHook.poll_interval_s, waiter) for job in jobs]
    for trigger in found:
        # As in a triggerer, so that the end of this process does not end the job
        trigger.task_instance = SimpleNamespace(task_id="task")
    return found


def _pod_operator_triggers(names: Sequence[str]) -> list[Any]:
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
    from airflow.sdk import BaseHook

    extra = BaseHook.get_connection(CONN_ID).extra_dejson
    return [
        KubernetesPodTrigger(
            pod_name=name,
            pod_namespace=extra["namespace"],
            trigger_start_time=datetime.now(tz=UTC),
            base_container_name="step",
            kubernetes_conn_id=CONN_ID,
            connection_extras=extra,
        )
        for name in names
    ]


WAYS: dict[str, Callable[[Sequence[Any]], list[Any]]] = {
    OURS: _our_triggers,
    POD_OPERATOR: _pod_operator_triggers,
}


if __name__ == "__main__":
    main()
