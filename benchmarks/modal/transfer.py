"""Measures 100 MB of numpy to a step and back without a bucket, beside a plain upload and download."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from airflow_stepop.connections.modal import account_of, client_of
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.payload.call import FunctionCall
from benchmarks.measure import IS_SHORT
from benchmarks.modal.service import Room
from benchmarks.steps import run_step
from benchmarks.tables import Line, Table
from tests.emulators.modal.container import unavailable

MB = 10**6
BYTES = (8 if IS_SHORT else 100) * MB
REPEATS = 1 if IS_SHORT else 3
LOOK_S = 0.05
TITLE = f"{BYTES // MB} MB of numpy to a step and back, without a bucket"


def tables(room: Room) -> Iterator[Table]:
    """Yield the seconds there and back, and those of a step without the array."""
    if reason := unavailable():
        yield Table(TITLE, "s", [Line("not measured", None, reason)])
        return
    hook = ModalStepHook()
    plain = _best_s(lambda: _copied(hook))
    nothing = _best_s(lambda: _stepped(room, hook, numpy.zeros(1)))
    ours = _best_s(lambda: _stepped(room, hook, numpy.random.default_rng(time.time_ns()).random(BYTES // 8)))
    yield Table(TITLE, "s", [
        Line("Volume.batch_upload of a file, and read_file", plain),
        Line("airflow-stepop, a step", ours, f"of which a step with 8 bytes takes {nothing:.1f} s"),
        Line("airflow-stepop, without that", ours - nothing),
    ])  # fmt: skip


def _best_s(work: Callable[[], Any]) -> float:
    """Return the seconds of the shortest of some runs, because load on the host only adds time."""
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return min(times)


def _copied(hook: ModalStepHook) -> None:
    """Upload a file into a Volume, and read it into a file."""
    import modal

    client = client_of(account_of(hook.connection))
    volume = modal.Volume.from_name("bare", create_if_missing=True, version=2, client=client)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.write_bytes(numpy.random.default_rng(time.time_ns()).bytes(BYTES))
        with volume.batch_upload(force=True) as batch:
            batch.put_file(source, "/file")
        with target.open("wb") as stream:
            for block in volume.read_file("/file"):
                stream.write(block)


def _stepped(room: Room, hook: ModalStepHook, value: numpy.ndarray[Any, Any]) -> None:
    def echo(value: Any) -> Any:
        return value

    call = FunctionCall(function=echo, args=(value,), kwargs={}, reference=None)
    loaded = run_step(hook, call, room.address, LOOK_S, image="python:3.12")
    if loaded.nbytes != value.nbytes or loaded[-1] != value[-1]:
        raise RuntimeError("another array came back")
