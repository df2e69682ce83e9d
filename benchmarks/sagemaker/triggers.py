"""Runs the triggers of deferred tasks in a process of their own. ``waiting.py`` and ``logs.py`` start it.

The process answers each line of its standard input with a line of JSON: what it has used and seen so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_stepop.job import JobHandle
from benchmarks.sagemaker.service import CONN_ID, quieten

OURS, OPERATOR = "airflow-stepop", "SageMakerTrainingOperator"
LOGS = "airflow-stepop, logs"
OPERATOR_POLL_S, OPERATOR_POLLS = 30, 100_000  # the operator's default interval; it polls at most 60 times


class Seen:
    """What the process has seen so far.

    :param began: memory of the process before the first trigger, bytes
    """

    def __init__(self) -> None:
        self.began = _memory_bytes()
        self.ended: dict[str, float] = {}  # job -> when its trigger fired
        self.lines: dict[str, list[tuple[str, float]]] = {}  # job -> its log lines, each with its time
        self.failed: list[str] = []

    def told(self, command: str) -> dict[str, Any]:
        told = {
            "cpu_s": time.process_time(),
            "at": time.monotonic(),
            "memory_bytes": _memory_bytes() - self.began,
            "ended": self.ended,
            "failed": self.failed,
        }
        return told | ({"lines": self.lines} if command == "lines" else {})


def main() -> None:
    import airflow.triggers.base  # noqa: F401 - every triggerer has imported it

    quieten()
    given = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(_run(given["way"], [JobHandle.from_json(job) for job in given["jobs"]]))


async def _run(way: str, jobs: Sequence[JobHandle]) -> None:
    """Start the triggers, and answer commands. Exits at once, as triggers may not react to a cancellation."""
    seen = Seen()
    tasks = [asyncio.create_task(WAYS[way](job, seen)) for job in jobs]
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        seen.failed = [repr(task.exception()) for task in tasks if task.done() and task.exception()]
        print(json.dumps(seen.told(command)), flush=True)
    os._exit(0)


def _memory_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


async def _our_trigger(job: JobHandle, seen: Seen) -> None:
    from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
    from airflow_stepop.triggers import RemoteStepTrigger

    waiter = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": -1, "since": time.time()}
    trigger = RemoteStepTrigger(job.to_json(), {}, SageMakerStepHook.poll_interval_s, waiter)
    # As in a triggerer, so that the end of this process does not end the job
    trigger.task_instance = SimpleNamespace(task_id="task")  # type: ignore[assignment]
    async for _ in trigger.run():
        seen.ended[job.name] = time.time()


async def _operators_trigger(job: JobHandle, seen: Seen) -> None:
    from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger

    trigger = SageMakerTrigger(
        job_name=job.name,
        job_type="Training",
        waiter_delay=OPERATOR_POLL_S,
        waiter_max_attempts=OPERATOR_POLLS,
        aws_conn_id=CONN_ID,
    )
    async for _ in trigger.run():
        seen.ended[job.name] = time.time()


async def _our_log(job: JobHandle, seen: Seen) -> None:
    """Subscribe to a job as its trigger does, and note its log lines."""
    from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
    from airflow_stepop.triggers import _make_hook
    from airflow_stepop.waiting.watcher import watcher_for

    key = job.backend, job.conn_id, job.scope
    watcher = await watcher_for(key, lambda: _make_hook(job.backend, job.conn_id))
    lines = seen.lines.setdefault(job.name, [])
    async with watcher.subscribe(job, SageMakerStepHook.poll_interval_s) as subscription:
        while True:
            update = await subscription.next(30)
            now = time.time()
            lines += [(line.text, now) for line in update.lines]


WAYS: dict[str, Callable[[JobHandle, Seen], Any]] = {
    OURS: _our_trigger,
    OPERATOR: _operators_trigger,
    LOGS: _our_log,
}


if __name__ == "__main__":
    main()
