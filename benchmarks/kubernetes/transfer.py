"""Measures the speed of a gigabyte that a step in a pod returns, compared with a plain copy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.configured import open_bucket
from benchmarks.data import BYTES, GOAL, MIB, REPEATS
from benchmarks.kubernetes import cluster
from benchmarks.kubernetes.cluster import Room
from benchmarks.steps import run_step
from benchmarks.tables import Line, Table
from tests.support.s3 import started

RESOURCES = ResourceSettings(memory=f"{4 * BYTES // MIB + 256}MiB")
SIGNED_S = 3600.0


def tables(room: Room) -> Iterator[Table]:
    """Yield MiB/s from the end of the step's function until the worker has the value."""
    title = f"{BYTES // MIB} MiB returned by a step in a pod, through a bucket"
    endpoint = os.environ.get("STEPOP_S3_FOR_PODS")
    if not endpoint:
        reason = "set STEPOP_S3SERVER, and STEPOP_S3_FOR_PODS to its address in pods"
        yield Table(title, "MiB/s", [Line("not measured", None, reason)])
        return
    with _bucket(endpoint) as address:
        yield Table(title, "MiB/s", _lines(address), is_more_better=True)


@contextmanager
def _bucket(endpoint: str) -> Iterator[str]:
    """Yield the address of a new store; empty the store at the end."""
    server = replace(started(os.environ["STEPOP_S3SERVER"]), endpoint=endpoint, conn_id="stepop_bench_s3")
    os.environ[f"AIRFLOW_CONN_{server.conn_id.upper()}"] = server.connection()
    address = server.new_address()
    try:
        yield address
    finally:
        open_bucket(address).delete_folder("")


def _lines(address: str) -> Iterator[Line]:
    import obstore

    store = open_bucket(address)
    (url,) = store.sign("PUT", ["raw"], time.time() + SIGNED_S)

    def copy() -> int:
        _run(_sender(), url, BYTES, address=address)
        return len(obstore.get(store.client, "raw").bytes())

    nothing_s = _best_s(lambda: _run(_maker(), BYTES, address=address))
    raw = _speed(_best_s(copy) - nothing_s)
    ours = _speed(_best_s(lambda: len(_run(_returner(), BYTES, address=address))) - nothing_s)
    note = f"without the {nothing_s:.1f} s of a pod that only makes the value"
    yield Line("one plain PUT in the pod, one GET in the worker", raw, note)
    yield Line("what a step returns, loaded in its worker", ours, goal=GOAL * raw)


def _speed(seconds: float) -> float:
    return BYTES / MIB / max(seconds, 0.001)  # in a short run, the difference may be below zero


def _run(function: Callable[..., Any], *args: Any, address: str) -> Any:
    call = FunctionCall(function=function, args=args, kwargs={}, reference=None)
    return run_step(cluster.hook(), call, address, resources=RESOURCES)


def _best_s(work: Callable[[], Any]) -> float:
    """Return the seconds of the shortest of some runs, because load on the host only adds time."""
    times = []
    for _ in range(REPEATS):
        begin = time.monotonic()
        work()
        times.append(time.monotonic() - begin)
    return min(times)


# -- in the pod: inner functions, because these are sent with their code


def _maker() -> Callable[[int], int]:
    def made(size: int) -> int:
        import os

        return len(os.urandom(1 << 20) * (size >> 20))

    return made


def _returner() -> Callable[[int], bytes]:
    def returned(size: int) -> bytes:
        import os

        return os.urandom(1 << 20) * (size >> 20)

    return returned


def _sender() -> Callable[[str, int], None]:
    def sent(url: str, size: int) -> None:
        import os
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        place = urlsplit(url)
        connection = HTTPConnection(place.netloc)
        connection.request("PUT", f"{place.path}?{place.query}", os.urandom(1 << 20) * (size >> 20))
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {answer.read()!r}")

    return sent
