"""Measures the log lines of a thousand jobs: how soon a line is known, and the requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.sagemaker.service import LONG_S, Answers, Room, as_json, child, count_of, tell, told
from benchmarks.sagemaker.triggers import LOGS
from benchmarks.tables import Line, Table

JOBS = count_of(1000, 20)
EVERY_S = 10.0  # a job prints a line so often, if the log service takes so many
STREAMS = 100  # in one FilterLogEvents
QUOTA_PER_S = 5.0  # FilterLogEvents, of the account and region
FIRST_S = float(count_of(10, 5))  # not measured, after the streams of all jobs were asked for
OBSERVED_S = float(count_of(90, 10))
LONGEST_S = 300.0


@dataclass(frozen=True)
class Read:
    """What a process has read.

    :param delays: seconds from each line until it was known
    :param printed: number of all lines
    :param lost: lines that did not come
    :param repeated: lines that came twice
    :param throttled: requests that the service has refused, from the start of the process
    :param answers: what the service has answered in ``seconds``
    :param first_s: seconds from the start of the process until it has asked for the streams of each job
    """

    delays: Sequence[float]
    printed: int
    lost: int
    repeated: int
    throttled: int
    answers: Answers
    seconds: float
    first_s: float

    def note(self) -> str:
        """The log service of the emulator may take fewer lines than the jobs are to print."""
        return f"of {len(self.delays)} lines, {len(self.delays) / self.seconds:.0f} a second"

    def a_minute(self, operation: str) -> float:
        return self.answers.of(operation) * 60 / self.seconds


def tables(room: Room) -> Iterator[Table]:
    """Yield the delays of lines, the requests, and the lines that are lost or repeated."""
    found = _measured(room)
    cycle_s = JOBS / STREAMS / QUOTA_PER_S
    late = quantiles(found.delays, n=20)[-1]
    title = f"The logs of {JOBS} jobs that print"
    limit = f"the quota: {QUOTA_PER_S:.0f} requests a second with {STREAMS} streams each"
    yield Table(f"{title}: until a line is known", "s", [
        Line(f"{limit}, median", cycle_s / 2),
        Line(f"{limit}, 95 of 100", cycle_s * 0.95),
        Line("airflow-stepop, median", median(found.delays), found.note(), goal=5),
        Line("airflow-stepop, 95 of 100", late, goal=10),
    ])  # fmt: skip
    yield Table(f"{title}: from a start of the triggerer until the streams of all jobs are known", "s", [
        Line("the quota: 25 DescribeLogStreams a second", JOBS / 25),
        Line("airflow-stepop", found.first_s),
    ])  # fmt: skip
    requests = [
        ("FilterLogEvents", QUOTA_PER_S * 60),
        ("DescribeLogStreams", 25.0 * 60),
    ]
    yield Table(f"{title}: requests", "a minute", [
        line
        for operation, quota in requests
        for line in (
            Line(f"the quota of {operation}", quota),
            Line(f"airflow-stepop, {operation}", found.a_minute(operation), goal=quota),
        )
    ])  # fmt: skip
    yield Table(f"{title}: lines", "lines", [
        Line("printed", found.printed),
        Line("lost", found.lost, goal=0),
        Line("repeated", found.repeated, goal=0),
        Line("requests that were throttled", found.throttled, goal=0),
    ])  # fmt: skip


def _measured(room: Room) -> Read:
    handles = room.created(JOBS, train_s=LONG_S)
    given = {"url": room.service.logs_url, "jobs": [job.name for job in handles], "every_s": EVERY_S}
    with child("benchmarks.sagemaker.writer", given) as writer:
        told(writer)
        start = room.answers()
        with child("benchmarks.sagemaker.triggers", {"way": LOGS, "jobs": as_json(handles)}) as reader:
            tell(writer, "begin")
            first_s = _wait_for_streams(room, start)
            time.sleep(FIRST_S)
            before, began, began_at = room.answers(), time.monotonic(), time.time()
            time.sleep(OBSERVED_S)
            answers, seconds = room.answers() - before, time.monotonic() - began
            tell(writer, "end")
            written = told(writer)["written"]
            lines = _all_lines(reader, written)
    throttled = (room.answers() - start).throttled()
    return Read(*_compared(written, lines, began_at), throttled, answers, seconds, first_s)


def _wait_for_streams(room: Room, start: Answers) -> float:
    """Return the seconds until the service was asked for the streams of each job."""
    began = time.monotonic()
    while (room.answers() - start).of("DescribeLogStreams") < JOBS and time.monotonic() < began + LONGEST_S:
        time.sleep(1)
    return time.monotonic() - began


def _all_lines(reader: Any, written: Mapping[str, int]) -> dict[str, list[tuple[str, float]]]:
    """Return all lines that the reader knows, when it knows as many as were written."""
    until, lines = time.monotonic() + LONGEST_S, {}
    while time.monotonic() < until:
        tell(reader, "lines")
        lines = told(reader)["lines"]
        if sum(map(len, lines.values())) >= sum(written.values()):
            break
        time.sleep(2)
    return lines


def _compared(
    written: Mapping[str, int], lines: Mapping[str, Sequence[tuple[str, float]]], began_at: float
) -> tuple[list[float], int, int, int]:
    """Return the delays of the lines since a time, and the numbers of all, lost and repeated lines."""
    delays, lost, repeated = [], 0, 0
    for job, count in written.items():
        texts = [text for text, _ in lines.get(job, [])]
        lost += count - len(set(texts))
        repeated += len(texts) - len(set(texts))
        stamps = [(float(text.split()[1]), known) for text, known in lines.get(job, [])]
        delays += [known - at for at, known in stamps if at >= began_at]
    return delays, sum(written.values()), lost, repeated
