"""Measures the speed of a gigabyte to a step and back, compared with plain copies and with peers.

``__main__.py`` calls :func:`folder_lines` and :func:`bucket_lines`.
"""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import open_bucket, open_store
from airflow_stepop.stores.folder import folder_uri
from benchmarks.measure import IS_SHORT, is_installed
from benchmarks.steps import run_step
from benchmarks.tables import Line
from benchmarks.xcom import pass_array

BYTES = int(os.environ.get("STEPOP_BENCH_BYTES", str(1 << 30)))
SHARE = 64  # slow methods move only this fraction of the bytes
REPEATS = 1 if IS_SHORT else 3
GOAL = 0.8
MIB = 2**20
SCALED = f"with {BYTES // SHARE // MIB or 1} MiB"


def array(size: int = BYTES) -> numpy.ndarray[Any, Any]:
    return numpy.random.default_rng(7).random(size // 8)


def folder_lines(folder: Path) -> Iterator[Line]:
    """Yield MiB/s through a folder, averaged over the way there and the way back."""
    value = array()
    value.tofile(folder / "raw")
    raw = _speed(lambda: _copy_twice(folder))
    yield Line("cp there, cp back", raw)
    ours = _speed(lambda: _through_step(value, folder, folder_uri(folder / "store")))
    yield Line("an argument to a local step, and its result", ours, goal=GOAL * raw)
    yield Line("SHA-256 of it, on one core", _speed(lambda: _hash_twice(value)), "each side checks it")
    yield Line("pickle protocol 4 and gzip", _speed(lambda: _gzip(value, folder), SHARE), SCALED)
    yield Line("an XCom in Airflow's object storage", _xcom_speed(folder.as_uri() + "/xcom"), SCALED)


def bucket_lines(folder: Path, address: str) -> Iterator[Line]:
    """Yield MiB/s through a bucket, averaged over the way there and the way back.

    :param address: address of an unused store in the bucket
    """
    store = open_bucket(address)
    value = array()
    value.tofile(folder / "raw")
    raw = _speed(lambda: _copy_to_bucket(folder, store))
    yield Line("one plain multipart copy there, one back", raw)
    ours = _speed(lambda: _through_step(value, folder, address))
    yield Line("an argument to a step, and its result", ours, goal=GOAL * raw)
    if is_installed("s3fs"):
        yield Line("an XCom in Airflow's object storage", _xcom_speed(f"{address}/xcom"), SCALED)
    else:
        yield Line("an XCom in Airflow's object storage", None, "not installed")
    store.delete_folder("")


def _speed(move: Callable[[], None], share: int = 1) -> float:
    """Return the best of some runs in MiB/s, because other load only makes a disk slower."""
    times = []
    for _ in range(REPEATS):
        os.sync()
        _warm_memory()
        begin = time.monotonic()
        move()
        times.append(time.monotonic() - begin)
    return 2 * BYTES / share / MIB / min(times)


def _warm_memory() -> None:
    """Touch as much memory as a run needs. A virtual machine may have to get the memory from its host."""
    subprocess.run([sys.executable, "-c", f"bytearray({6 * BYTES})"], check=True)


def _xcom_speed(path: str) -> float:
    size = max(BYTES // SHARE, MIB)
    return 2 * size / MIB / min(pass_array(size, path).seconds for _ in range(REPEATS))


def _copy_twice(folder: Path) -> None:
    for name in ("there", "back"):
        subprocess.run(["cp", folder / "raw", folder / name], check=True)
    for name in ("there", "back"):
        (folder / name).unlink()


def _copy_to_bucket(folder: Path, store: BucketStore) -> None:
    import obstore

    for name in ("there", "back"):
        obstore.put(store.client, name, folder / "raw")
        with (folder / name).open("wb") as file:
            for chunk in obstore.get(store.client, name).stream():
                file.write(chunk)
        (folder / name).unlink()
        obstore.delete(store.client, name)


def _hash_twice(value: numpy.ndarray[Any, Any]) -> None:
    import hashlib

    for _ in ("there", "back"):
        hashlib.sha256(memoryview(value).cast("B")).digest()


def _through_step(value: numpy.ndarray[Any, Any], folder: Path, address: str) -> None:
    def echo(value: Any) -> Any:
        return value

    hook, store = LocalStepHook(folder=folder / "jobs"), open_store(address)
    call = FunctionCall(function=echo, args=(value,), kwargs={}, reference=None)
    loaded = run_step(hook, call, address)
    if loaded.nbytes != value.nbytes or loaded[-1] != value[-1]:
        raise RuntimeError("another array came back")
    for path in ("results", "parts"):  # a part that exists already would not be sent again
        store.delete_folder(path)


def _gzip(value: numpy.ndarray[Any, Any], folder: Path) -> None:
    part = value[: len(value) // SHARE]
    for _ in ("there", "back"):
        with gzip.open(folder / "pickle.gz", "wb") as file:
            pickle.dump(part, file, protocol=4)
        with gzip.open(folder / "pickle.gz", "rb") as file:
            part = pickle.load(file)
