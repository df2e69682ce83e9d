"""Measures the cost of a thousand waiting jobs in a triggerer, and how soon the triggerer notices an end.

``__main__.py`` calls :func:`watcher_lines` and :func:`noticing_lines`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, ClassVar

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import Cursor, JobHandle, JobState, JobStatus, LogChunk
from airflow_stepop.testing import make_step
from airflow_stepop.waiting.watcher import Watcher
from benchmarks.measure import IS_SHORT
from benchmarks.tables import Line

JOBS = 1000
OBSERVED_S = 2.0 if IS_SHORT else 60.0
ENDINGS = 4 if IS_SHORT else 60  # jobs whose end is timed
FIRST_S = 1.0 if IS_SHORT else 3.0  # not measured: the start of the watch costs more than the waiting


class RunningHook(StepHook):
    """A service whose jobs all run. It answers at once, so that only the cost of our own code is measured."""

    backend: ClassVar[str] = "running"
    inline_limit: ClassVar[int] = 0
    calls = 0

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        self.calls += 1
        return {handle: JobStatus(JobState.RUNNING, started_at=1.0) for handle in handles}

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        return {}

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    render = submit = lookup = outcome = cancel = delete = find = check = _unused


def watcher_lines() -> Iterator[tuple[Line, Line]]:
    """Yield (status calls a minute, share of a core in percent) for one poll per job, and for our watcher."""
    for name, watch, goals in (
        ("one poll per job, every 1.5 s", _poll_each, (None, None)),
        ("one watcher for all", _watch_all, (60, 3)),
    ):
        hook = RunningHook()
        calls, share = asyncio.run(_observe(hook, watch))
        yield Line(name, calls, goal=goals[0]), Line(name, share * 100, goal=goals[1])


async def _observe(hook: RunningHook, watch: Any) -> tuple[float, float]:
    handles = [JobHandle("running", None, "", f"job-{number}", f"job-{number}") for number in range(JOBS)]
    tasks = watch(hook, handles)
    await asyncio.sleep(FIRST_S)
    calls, cpu, begin = hook.calls, time.process_time(), time.monotonic()
    await asyncio.sleep(OBSERVED_S)
    seconds = time.monotonic() - begin
    calls, cpu = hook.calls - calls, time.process_time() - cpu
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return calls / seconds * 60, cpu / seconds


def _poll_each(hook: RunningHook, handles: Sequence[JobHandle]) -> list[asyncio.Task[None]]:
    async def poll(handle: JobHandle) -> None:
        while True:
            await asyncio.to_thread(hook.status, [handle])
            await asyncio.sleep(hook.poll_interval_s)

    return [asyncio.create_task(poll(handle)) for handle in handles]


def _watch_all(hook: RunningHook, handles: Sequence[JobHandle]) -> list[asyncio.Task[None]]:
    watcher = Watcher(hook)

    async def wait(handle: JobHandle) -> None:
        async with watcher.subscribe(handle, hook.poll_interval_s) as subscription:
            while True:
                await subscription.next(30)

    return [asyncio.create_task(wait(handle)) for handle in handles]


def noticing_lines(folder: Path) -> Iterator[Line]:
    """Yield the seconds from the end of a process until the watcher of its job knows."""
    for name, interval_s in (
        ("at the interval of a remote backend", 1.5),
        ("at the interval of `local`", 0.5),
    ):
        delays = asyncio.run(_delays(LocalStepHook(folder=folder), interval_s))
        yield Line(f"{name} ({interval_s} s), median", median(delays), goal=1)
        yield Line(f"{name} ({interval_s} s), 95 of 100", quantiles(delays, n=20)[-1], goal=2)


async def _delays(hook: LocalStepHook, interval_s: float) -> list[float]:
    """Run real processes that end at random times. Return for each end the seconds until it is noticed."""
    watcher, limit = Watcher(hook), asyncio.Semaphore(4)
    # This process outlives the others, because a new watcher polls more often at first
    keeper = make_step(["sleep", "600"])
    kept = await asyncio.to_thread(hook.submit, keeper.spec, keeper.payload)

    async def delay() -> float:
        async with limit:
            step = make_step(["sleep", f"{random.uniform(2, 5):.3f}"])
            handle = await asyncio.to_thread(hook.submit, step.spec, step.payload)
            async with watcher.subscribe(handle, interval_s) as subscription:
                while (
                    status := (await subscription.next(30)).status
                ) is None or not status.state.is_terminal:
                    pass
                known = time.time()
            await asyncio.to_thread(hook.delete, handle)
            return known - (status.finished_at or known)

    async with watcher.subscribe(kept, interval_s):
        delays = await asyncio.gather(*(delay() for _ in range(ENDINGS)))
    hook.cancel(kept)
    while not hook.status([kept])[kept].state.is_terminal:
        time.sleep(0.05)  # noqa: ASYNC251 - no other task is left in the loop
    hook.delete(kept)
    return list(delays)
