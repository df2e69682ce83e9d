"""A gigabyte to a step and back, beside what the disk can do and what others do with it."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.payload import FunctionCall, hand_over, read_outcome, spill
from airflow_stepop.results import StepResult
from airflow_stepop.store import Store, folder_uri, open_store
from airflow_stepop.testing import make_step
from benchmarks.tables import Line

BYTES = int(os.environ.get("STEPOP_BENCH_BYTES", str(1 << 30)))
SMALL = 64  # the slow ones get a share of it, and their time is multiplied
REPEATS = 3
GOAL = 0.8
MIB = 2**20


def array() -> numpy.ndarray[Any, Any]:
    return numpy.random.default_rng(7).random(BYTES // 8)


def folder_lines(folder: Path) -> Iterator[Line]:
    """Yield MiB/s there and back: what a gigabyte costs twice, divided into the two."""
    value = array()
    value.tofile(folder / "raw")
    yield Line("cp there, cp back", _speed(lambda: _copy_twice(folder)))
    store = open_store(folder_uri(folder / "store"))
    yield Line(
        "an argument to a local step, and its result", _speed(lambda: _through_step(value, folder, store)),
        goal=GOAL * _last[0],
    )  # fmt: skip
    yield Line(
        "pickle protocol 4 and gzip, there and back", _speed(lambda: _gzip(value, folder), SMALL), _scaled()
    )
    yield Line("an XCom in Airflow's object storage", _speed(lambda: _xcom(value, folder), SMALL), _scaled())


_last: list[float] = []  # the speed of each line of a table, in order


def _speed(move: Callable[[], None], share: int = 1) -> float:
    """Return the best of some runs in MiB/s: a disk is never faster than it is, but often slower."""
    times = []
    for _ in range(REPEATS):
        os.sync()
        begin = time.monotonic()
        move()
        times.append(time.monotonic() - begin)
    _last.append(2 * BYTES / share / MIB / min(times))
    return _last[-1]


def _scaled() -> str:
    return f"with {BYTES // SMALL // MIB} MiB"


def _copy_twice(folder: Path) -> None:
    for name in ("there", "back"):
        subprocess.run(["cp", folder / "raw", folder / name], check=True)
    for name in ("there", "back"):
        (folder / name).unlink()


def _through_step(value: numpy.ndarray[Any, Any], folder: Path, store: Store) -> None:
    def echo(value: Any) -> Any:
        return value

    hook = LocalStepHook(folder=folder / "jobs")
    call = FunctionCall(function=echo, args=(value,), kwargs={}, reference=None)
    step = make_step(call, result_uri=store.uri("results"))
    payload = spill(step.payload, lambda: store, hook.inline_limit)
    spec = replace(step.spec, digest=payload.digest)
    handle = hook.submit(spec, payload)
    while not (status := hook.status([handle])[handle]).state.is_terminal:
        time.sleep(0.005)
    found = read_outcome(hook.outcome(handle), spec.name, spec.nonce)
    if "failure" in found:
        raise RuntimeError(f"{status}: {found['failure']}")
    with _configured(store):
        result = hand_over(found["result"])
        loaded = result.load() if isinstance(result, StepResult) else result
    if loaded.nbytes != value.nbytes or loaded[-1] != value[-1]:
        raise RuntimeError("another array came back")
    hook.delete(handle)
    store.delete_folder("results")


@contextmanager
def _configured(store: Store) -> Iterator[None]:
    name = "AIRFLOW__STEPOP__STORE"
    os.environ[name] = store.url
    try:
        yield
    finally:
        del os.environ[name]


def _gzip(value: numpy.ndarray[Any, Any], folder: Path) -> None:
    part = value[: len(value) // SMALL]
    for _ in ("there", "back"):
        with gzip.open(folder / "pickle.gz", "wb") as file:
            pickle.dump(part, file, protocol=4)
        with gzip.open(folder / "pickle.gz", "rb") as file:
            part = pickle.load(file)


def _xcom(value: numpy.ndarray[Any, Any], folder: Path) -> None:
    """As the backend of the common.io provider does it: JSON, so the array has to become a list before."""
    from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend

    part: Any = value[: len(value) // SMALL].tolist()
    names = {"task_id": "t", "dag_id": "d", "run_id": "r", "map_index": -1}
    for key in ("there", "back"):
        stored = XComObjectStorageBackend.serialize_value(part, key=key, **names)
        part = XComObjectStorageBackend.deserialize_value(_Row(stored))
    shutil.rmtree(folder / "xcom", ignore_errors=True)


class _Row:
    """What the backend reads of a database row."""

    def __init__(self, value: Any) -> None:
        self.value = value


def memory_lines() -> Iterator[Line]:
    """Yield MiB of memory at the peak of an Airflow worker through which a result passes by reference."""
    dag = Path(__file__).parent / "dags" / "gigabyte.py"
    small = _peak_of(dag, 1024)
    yield Line("two steps that pass 1 KiB on", small)
    yield Line(f"two steps that pass {BYTES // MIB} MiB on", _peak_of(dag, BYTES), goal=small + 50)


_RUN = """
import resource, sys
from airflow.dag_processing.dagbag import DagBag
run = DagBag(sys.argv[1]).dags["gigabyte"].test()
assert run.state == "success", run.state
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def _peak_of(dag: Path, size: int) -> float:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as home:
        env = {**os.environ, "AIRFLOW_HOME": home, "STEPOP_BENCH_BYTES": str(size)}
        env |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(dag.parent)}
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True
        )
        done = subprocess.run([sys.executable, "-c", _RUN, str(dag)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
    return float(done.stdout.rpartition("peak")[2])
