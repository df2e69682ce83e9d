"""Measures the cost of submitting a step in a worker: API calls and time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

from benchmarks.kubernetes import cluster
from benchmarks.kubernetes.cluster import CONN_ID, IS_SHORT, THREADS, Requests, Room
from benchmarks.tables import Line, Table

STEPS = 12 if IS_SHORT else 200
CALLS = 3  # create the Job, create its Secret, release the Job


def tables(room: Room) -> Iterator[Table]:
    """Yield the calls and the milliseconds of one submission, sequentially and in threads."""
    requests = Requests.counted()
    ours, pod_operator = _our_submissions, _pod_operator_submissions
    calls, times = [], []
    for name, make in (("KubernetesPodOperator", pod_operator), ("airflow-stepop", ours)):
        goal = CALLS if make is ours else None
        for threads in (1, THREADS):
            submissions = make(room, room.count(STEPS))
            submissions.pop()()  # not measured: it opens the connections
            before = requests.now()
            each_s, all_s = _submitted(submissions, threads)
            sent = (requests - before).states / len(submissions)
            way = "one after the other" if threads == 1 else f"in {threads} threads"
            rate = f"{len(submissions) / all_s:.0f} a second"
            times.append(Line(f"{name}, {way}", each_s * 1000, rate))
            if threads == 1:
                calls.append(Line(name, sent, goal=goal))
            cluster.emptied(room.namespace)
    yield Table("Submission of a step: calls", "calls", calls)
    yield Table("Submission of a step: time", "ms", times)


def _submitted(submissions: list[Callable[[], Any]], threads: int) -> tuple[float, float]:
    """Return the median seconds of one submission, and the seconds that all of them took."""
    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        each = list(pool.map(_timed, submissions))
    return median(each), time.monotonic() - begin


def _timed(submit: Callable[[], Any]) -> float:
    begin = time.monotonic()
    submit()
    return time.monotonic() - begin


def _our_submissions(room: Room, count: int) -> list[Callable[[], Any]]:
    hook, steps = cluster.hook(), [room.step() for _ in range(count + 1)]
    return [partial(hook.submit, step.spec, step.payload) for step in steps]


def _pod_operator_submissions(room: Room, count: int) -> list[Callable[[], Any]]:
    """Return calls that create a pod like the operator. Their client exists before, as for our steps."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    hook = KubernetesHook(CONN_ID)
    return [partial(_create_pod, _operator(room, hook)) for _ in range(count + 1)]


def _operator(room: Room, hook: Any) -> Any:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    name = f"kpo-{uuid.uuid4().hex}"
    operator = KubernetesPodOperator(
        task_id=name,
        name=name,
        image=cluster.IMAGE,
        cmds=["sleep", "7200"],
        kubernetes_conn_id=CONN_ID,
        random_name_suffix=False,
        **room.settings(),
    )
    operator.__dict__["hook"] = hook
    return operator


def _create_pod(operator: Any) -> None:
    instance = SimpleNamespace(dag_id="dag", task_id=operator.task_id, map_index=-1, try_number=1)
    context = {"ti": instance, "run_id": "run", "dag": SimpleNamespace()}
    operator.get_or_create_pod(operator.build_pod_request_obj(context), context)
