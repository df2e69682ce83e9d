"""Measures the delay from the end of a step in a real pod until its trigger or watcher knows."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.testing import make_step
from airflow_stepop.waiting.watcher import Watcher
from benchmarks.kubernetes import cluster
from benchmarks.kubernetes.cluster import CONN_ID, IS_SHORT, Room
from benchmarks.tables import Line, Table

ENDINGS = 3 if IS_SHORT else 20
AT_ONCE = 3 if IS_SHORT else 4
RUN_S = (1, 2) if IS_SHORT else (6, 10)  # longer than the operator polls for the start of a pod
GOALS_S = (1.0, 2.0)
STAMPED = "import time; time.sleep({seconds}); open('/dev/termination-log', 'w').write(str(time.time()))"
Noticed = tuple[float, float]  # time of the last instruction; time when the end was known


def tables(room: Room) -> Iterator[Table]:
    """Yield the seconds from the end of a step until its trigger or watcher knows."""
    lines = []
    for name, noticed, goals in (
        ("KubernetesPodOperator, deferred", _pods_noticed, (None, None)),
        ("airflow-stepop, deferred", _steps_noticed, GOALS_S),
    ):
        found = asyncio.run(noticed(room))
        lines += _lines(name, [known - stamp for stamp, known in found], goals)
    yield Table("The end of a step is known, from the last instruction of the step", "s", lines)


def _lines(name: str, delays: Sequence[float], goals: tuple[float | None, float | None]) -> list[Line]:
    late = quantiles(delays, n=20)[-1] if len(delays) >= 20 else max(delays)
    return [
        Line(f"{name}, median", median(delays), f"of {len(delays)}", goals[0]),
        Line(f"{name}, 95 of 100", late, goal=goals[1]),
    ]


async def _each(notice: Callable[[], Awaitable[Noticed]]) -> list[Noticed]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def limited() -> Noticed:
        async with limit:
            return await notice()

    return await asyncio.gather(*(limited() for _ in range(ENDINGS)))


async def _steps_noticed(room: Room) -> list[Noticed]:
    hook = cluster.hook()
    watcher = Watcher(hook)
    # These steps outlive the others, because a new watcher polls more often at first
    keepers = await asyncio.to_thread(cluster.started, [room.step() for _ in range(AT_ONCE)])

    async def notice() -> Noticed:
        step = make_step(_stamped(random.uniform(*RUN_S)))
        handle = await asyncio.to_thread(hook.submit, step.spec, step.payload)
        async with watcher.subscribe(handle, hook.poll_interval_s) as subscription:
            while (status := (await subscription.next(30)).status) is None or not status.state.is_terminal:
                pass
            known = time.time()
        report = await asyncio.to_thread(hook.outcome, handle)
        stamp = to_xcom(read_outcome(report, step.spec.name, step.spec.nonce)["result"])
        await asyncio.to_thread(hook.delete, handle)
        return stamp, known

    async with watcher.subscribe(keepers[0], hook.poll_interval_s) as kept:
        kept.wants_more = False  # a simulated pod has no log
        found = await _each(notice)
    await asyncio.to_thread(cluster.emptied, room.namespace)
    return found


def _stamped(seconds: float) -> Callable[[], float]:
    def stamped() -> float:
        import time

        time.sleep(seconds)
        return time.time()

    return stamped


async def _pods_noticed(room: Room) -> list[Noticed]:
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
    from airflow.sdk import BaseHook

    core, extra = cluster.core(), BaseHook.get_connection(CONN_ID).extra_dejson

    async def notice() -> Noticed:
        name = f"kpo-{uuid.uuid4().hex[:12]}"
        await asyncio.to_thread(
            core.create_namespaced_pod, room.namespace, _pod(name, random.uniform(*RUN_S))
        )
        trigger = KubernetesPodTrigger(
            pod_name=name,
            pod_namespace=room.namespace,
            trigger_start_time=datetime.now(tz=UTC),
            base_container_name="base",
            kubernetes_conn_id=CONN_ID,
            connection_extras=extra,
        )
        async for event in trigger.run():
            known = time.time()
            if event.payload["status"] != "success":
                raise RuntimeError(event.payload["message"])
            break
        pod = await asyncio.to_thread(core.read_namespaced_pod, name, room.namespace)
        return float(pod.status.container_statuses[0].state.terminated.message), known

    found = await _each(notice)
    await asyncio.to_thread(cluster.emptied, room.namespace)
    return found


def _pod(name: str, seconds: float) -> dict[str, Any]:
    command = ["python3", "-c", STAMPED.format(seconds=seconds)]
    container = {"name": "base", "image": cluster.IMAGE, "command": command}
    return {"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [container]}}
