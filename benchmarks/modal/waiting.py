"""Measures a thousand running sandboxes: requests, share of a core, memory, and how soon an end is noticed.

The sandboxes print now and then. Each way to wait is measured in a fresh process, with new sandboxes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from airflow_stepop.job import JobHandle
from benchmarks.modal.service import STATES, Calls, Room
from benchmarks.modal.triggers import OURS, POLLS
from benchmarks.processes import as_json, child, count_of, tell, told
from benchmarks.tables import Line, Table
from tests.support.modal_many import receipt_line

JOBS = count_of(1000, 20)
OBSERVED_S = float(count_of(60, 5))
FIRST_S = float(count_of(45, 5))  # not measured: the start costs more than the waiting
ENDINGS = count_of(60, 4)
MIB = 2**20
LONGEST_S = 300.0


@dataclass(frozen=True)
class Cost:
    """The cost of one process.

    :param calls: what the service has answered in ``seconds``
    :param share: share of a core, from 0 to 1
    :param memory_bytes: memory in addition to a process that has imported Airflow's triggers
    :param delays: seconds from the end of a sandbox until its trigger fired
    """

    calls: Calls
    seconds: float
    share: float
    memory_bytes: int
    delays: Sequence[float]

    def a_minute(self, *rpcs: str) -> float:
        return self.calls.of(*rpcs) * 60 / self.seconds


def tables(room: Room) -> Iterator[Table]:
    """Yield requests, share of a core, memory, and the delay until an end is noticed."""
    costs = {way: _measured(room, way) for way in (POLLS, OURS)}
    goals = {POLLS: (None, None, None), OURS: (60.0, 3.0, 15.0)}
    waiting = f"{JOBS} sandboxes run and print"
    yield Table(f"{waiting}: requests of the triggerer", "a minute", [
        Line(way, cost.a_minute(), _note(cost), goals[way][0]) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}: share of a core of the triggerer", "%", [
        Line(way, cost.share * 100, goal=goals[way][1]) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}: memory of the triggerer", "MiB", [
        Line(way, cost.memory_bytes / MIB) for way, cost in costs.items()
    ])  # fmt: skip
    yield Table(f"{waiting}, of which some end: until the trigger of an ended one fires", "s", [
        line for way, cost in costs.items() for line in _delay_lines(way, cost, goals[way][2])
    ])  # fmt: skip


def _note(cost: Cost) -> str:
    shown = {rpc: count * 60 / cost.seconds for rpc, count in sorted(cost.calls.by_rpc().items())}
    return ", ".join(f"{count:.1f} {rpc}" for rpc, count in shown.items())


def _delay_lines(way: str, cost: Cost, goal: float | None) -> Iterator[Line]:
    if not cost.delays:
        yield Line(way, None, "no end was noticed")
        return
    late = quantiles(cost.delays, n=20)[-1] if len(cost.delays) >= 20 else max(cost.delays)
    missed = ENDINGS - len(cost.delays)
    note = f"of {len(cost.delays)}" + (f"; {missed} were not noticed in time" if missed else "")
    yield Line(f"{way}, median", median(cost.delays), note)
    yield Line(f"{way}, 95 of 100", late, goal=goal)


def _measured(room: Room, way: str) -> Cost:
    handles = room.created(JOBS)
    try:
        before = room.calls()
        with child("benchmarks.modal.triggers", {"way": way, "jobs": as_json(handles)}) as process:
            _wait_for_first(room, before, way)
            time.sleep(FIRST_S)
            cost = _observed(room, process)
            delays = _delays(room, process, handles[:ENDINGS])
        return Cost(*cost, delays)
    finally:
        room.service.do("reset")


def _wait_for_first(room: Room, before: Calls, way: str) -> None:
    """Wait until the service was asked for all sandboxes: once for each, or with a list of all."""
    until = time.monotonic() + LONGEST_S
    wanted = JOBS if way == POLLS else -(-JOBS // 100)
    while (room.calls() - before).of(*STATES) < wanted and time.monotonic() < until:
        time.sleep(1)


def _observed(room: Room, process: Any) -> tuple[Calls, float, float, int]:
    """Return the calls, the seconds, the share of a core, and the memory. All sandboxes print meanwhile."""
    tell(process, "cost")
    before, begin = room.calls(), told(process)
    until = time.monotonic() + OBSERVED_S
    while time.monotonic() < until:
        room.service.do("say", sandbox="*", text="here I am")
        time.sleep(min(10.0, max(0.0, until - time.monotonic())))
    tell(process, "cost")
    end, calls = told(process), room.calls() - before
    if end["failed"]:
        raise RuntimeError(f"{len(end['failed'])} triggers have failed, one with {end['failed'][0]}")
    seconds = end["at"] - begin["at"]
    return calls, seconds, (end["cpu_s"] - begin["cpu_s"]) / seconds, end["memory_bytes"]


def _delays(room: Room, process: Any, handles: Sequence[JobHandle]) -> list[float]:
    """Let some sandboxes end, one after the other at random times; return when each was noticed."""
    over: dict[str, float] = {}
    for handle in handles:
        time.sleep(random.uniform(0, 2) * OBSERVED_S / ENDINGS)
        room.service.do("say", sandbox=handle.name, text=receipt_line(handle))
        room.service.do("end", sandbox=handle.name, status="SUCCESS", exit_code=0)
        over[handle.name] = time.time()
    until = time.monotonic() + 4 * OBSERVED_S + 30
    ended: dict[str, float] = {}
    while len(ended) < len(handles) and time.monotonic() < until:
        time.sleep(1)
        tell(process, "cost")
        ended = told(process)["ended"]
    return [ended[name] - at for name, at in over.items() if name in ended]
