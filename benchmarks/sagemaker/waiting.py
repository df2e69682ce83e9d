"""Measures a thousand jobs in flight: requests, share of a core and memory, and how soon an end is noticed.

Each way to wait is measured in a fresh process, with new jobs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from airflow_stepop.job import JobHandle
from benchmarks.sagemaker.service import LONG_S, Answers, Room, as_json, child, count_of, tell, told
from benchmarks.sagemaker.triggers import OPERATOR, OURS
from benchmarks.tables import Line, Table

JOBS = count_of(1000, 20)
OBSERVED_S = float(count_of(60, 3))
# Not measured: the start costs more than the waiting, and a triggerer loads modules after 30 s
FIRST_S = float(count_of(45, 3))
ENDINGS = count_of(60, 4)
MIB = 2**20
LONGEST_S = 1800.0


@dataclass(frozen=True)
class Cost:
    """The cost of one process.

    :param answers: what the service has answered in ``seconds``
    :param share: share of a core, from 0 to 1
    :param memory_bytes: memory in addition to a process that has imported Airflow's triggers
    :param first_s: seconds until the service was asked for each job
    :param delays: seconds from the end of a job until its trigger fired
    """

    answers: Answers
    seconds: float
    share: float
    memory_bytes: int
    first_s: float
    delays: Sequence[float]


def tables(room: Room) -> Iterator[Table]:
    """Yield requests, share of a core, memory, and the delay until an end is noticed."""
    costs = {way: _measured(room, way) for way in (OPERATOR, OURS)}
    goals = {OPERATOR: (None, None, None), OURS: (60.0, 3.0, 10.0)}
    waiting = f"{JOBS} jobs in flight"
    yield Table(f"{waiting}: requests for their states", "a minute", [
        Line(f"{way}, deferred", cost.answers.states() * 60 / cost.seconds, _note(cost), goals[way][0])
        for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}: share of a core of the triggerer", "%", [
        Line(f"{way}, deferred", cost.share * 100, goal=goals[way][1]) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}: memory of the triggerer", "MiB", [
        Line(f"{way}, deferred", cost.memory_bytes / MIB) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}: from a start of the triggerer until all jobs were asked for", "s", [
        Line(f"{way}, deferred", cost.first_s) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}, of which some end: until the trigger of an ended job fires", "s", [
        line for way, cost in costs.items() for line in _delay_lines(way, cost, goals[way][2])
    ])  # fmt: skip


def _note(cost: Cost) -> str:
    logs, throttled = cost.answers.logs() * 60 / cost.seconds, cost.answers.throttled() * 60 / cost.seconds
    return f"and {logs:.0f} for logs; {throttled:.0f} of all are throttled"


def _delay_lines(way: str, cost: Cost, goal: float | None) -> Iterator[Line]:
    if not cost.delays:
        yield Line(f"{way}, deferred", None, "no end was noticed")
        return
    late = quantiles(cost.delays, n=20)[-1] if len(cost.delays) >= 20 else max(cost.delays)
    missed = ENDINGS - len(cost.delays)
    note = f"of {len(cost.delays)}" + (f"; {missed} were not noticed in time" if missed else "")
    yield Line(f"{way}, deferred, median", median(cost.delays), note)
    yield Line(f"{way}, deferred, 95 of 100", late, goal=goal)


def _measured(room: Room, way: str) -> Cost:
    handles = room.created(JOBS, train_s=LONG_S)
    try:
        before, began = room.answers(), time.monotonic()
        with child("benchmarks.sagemaker.triggers", {"way": way, "jobs": as_json(handles)}) as process:
            _wait_for_first(room, before, way)
            first_s = time.monotonic() - began
            time.sleep(FIRST_S)
            cost = _observed(room, process)
            _end_some(room, handles)
            delays = _delays(room, process, handles[:ENDINGS])
        return Cost(*cost, first_s, delays)
    finally:
        room.service.do("reset")


def _wait_for_first(room: Room, before: Answers, way: str) -> None:
    """Wait until the service was asked for all jobs: once for each, or with a list of all."""
    until = time.monotonic() + LONGEST_S
    operation, count = {OPERATOR: ("DescribeTrainingJob", JOBS), OURS: ("ListTrainingJobs", -(-JOBS // 100))}[
        way
    ]
    while (room.answers() - before).of(f"{operation} 200") < count and time.monotonic() < until:
        time.sleep(1)


def _observed(room: Room, process: Any) -> tuple[Answers, float, float, int]:
    """Return the answers, the seconds, the share of a core, and the memory."""
    tell(process, "cost")
    before, begin = room.answers(), told(process)
    time.sleep(OBSERVED_S)
    tell(process, "cost")
    end, answers = told(process), room.answers() - before
    if end["failed"]:
        raise RuntimeError(f"{len(end['failed'])} triggers have failed, one with {end['failed'][0]}")
    seconds = end["at"] - begin["at"]
    return answers, seconds, (end["cpu_s"] - begin["cpu_s"]) / seconds, end["memory_bytes"]


def _end_some(room: Room, handles: Sequence[JobHandle]) -> None:
    """Let some jobs end, one after the other at random times."""
    for handle in handles[:ENDINGS]:
        time.sleep(random.uniform(0, 2) * OBSERVED_S / ENDINGS)
        room.service.do("plan", job=handle.name, train_s=0.0)


def _delays(room: Room, process: Any, handles: Sequence[JobHandle]) -> list[float]:
    until = time.monotonic() + 4 * OBSERVED_S + 30
    ended: dict[str, float] = {}
    while len(ended) < len(handles) and time.monotonic() < until:
        time.sleep(1)
        tell(process, "cost")
        ended = told(process)["ended"]
    room.service.do("settings", rates={})
    client = room.service.client("sagemaker")
    return [
        ended[handle.name]
        - client.describe_training_job(TrainingJobName=handle.name)["TrainingEndTime"].timestamp()
        for handle in handles
        if handle.name in ended
    ]
