"""Runs the triggers of deferred tasks in a process of their own. ``waiting.py`` starts it.

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
from benchmarks.processes import quieten

OURS, POLLS = "airflow-stepop, deferred", "modal alone, Sandbox.poll of each every 30 s"
POLL_S = 30.0  # the interval of most operators


class Seen:
    """What the process has seen so far.

    :param began: memory of the process before the first trigger, bytes
    """

    def __init__(self) -> None:
        self.began = _memory_bytes()
        self.ended: dict[str, float] = {}  # job -> when its trigger fired
        self.failed: list[str] = []

    def told(self) -> dict[str, Any]:
        return {
            "cpu_s": time.process_time(),
            "at": time.monotonic(),
            "memory_bytes": _memory_bytes() - self.began,
            "ended": self.ended,
            "failed": self.failed,
        }


def main() -> None:
    import airflow.triggers.base  # noqa: F401 - every triggerer has imported it

    quieten()
    given = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(_run(given["way"], [JobHandle.from_json(job) for job in given["jobs"]]))


async def _run(way: str, jobs: Sequence[JobHandle]) -> None:
    """Start the triggers, and answer commands. Exits at once, as triggers may not react to a cancellation."""
    seen = Seen()
    tasks = [asyncio.create_task(WAYS[way](job, seen)) for job in jobs]
    while (await asyncio.to_thread(sys.stdin.readline)).strip():
        seen.failed = [repr(task.exception()) for task in tasks if task.done() and task.exception()]
        print(json.dumps(seen.told()), flush=True)
    os._exit(0)


def _memory_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


async def _our_trigger(job: JobHandle, seen: Seen) -> None:
    from airflow_stepop.hooks.modal.hook import ModalStepHook
    from airflow_stepop.triggers import RemoteStepTrigger

    waiter = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": -1, "since": time.time()}
    trigger = RemoteStepTrigger(job.to_json(), {}, ModalStepHook.poll_interval_s, waiter)
    # As in a triggerer, so that the end of this process does not end the job
    trigger.task_instance = SimpleNamespace(task_id="task")  # type: ignore[assignment]
    async for _ in trigger.run():
        seen.ended[job.name] = time.time()


async def _poll(job: JobHandle, seen: Seen) -> None:
    """Ask for one sandbox alone, as a trigger without a watcher would."""
    import modal

    from airflow_stepop.connections.modal import account_of, client_of
    from airflow_stepop.hooks.modal.hook import ModalStepHook

    client = await asyncio.to_thread(lambda: client_of(account_of(ModalStepHook().connection)))
    sandbox = await modal.Sandbox.from_id.aio(job.id, client=client)
    while await sandbox.poll.aio() is None:  # noqa: ASYNC110 - the service tells nobody that a sandbox ends
        await asyncio.sleep(POLL_S)
    seen.ended[job.name] = time.time()


WAYS: dict[str, Callable[[JobHandle, Seen], Any]] = {OURS: _our_trigger, POLLS: _poll}


if __name__ == "__main__":
    main()
