"""Large values pass from step to step without a bucket: Volume, worker, folder store, and the next Volume."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from airflow_stepop.exceptions import OutcomeNotReadyError
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import make_reachable
from airflow_stepop.results import StepResult
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.paths import result_path
from airflow_stepop.testing import Step, make_step
from tests.support.memory import at_most
from tests.support.modal import Modal
from tests.support.modal_steps import end_of
from tests.support.s3 import S3Server

MIB = 2**20
SIZE, IN_MEMORY = 64 * MIB, 48 * MIB  # the client of Modal reads some blocks of 8 MiB ahead
# In a process that the kernel kills when it has written so many bytes of a file: it streams a result then
KILLED = f"""
import json, resource, signal, sys
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle
hook, handle = ModalStepHook(), JobHandle.from_json(json.loads(sys.argv[1]))
hook.status([handle])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({10 * MIB}, {10 * MIB}))
hook.outcome(handle)
"""


def ones() -> Any:
    import numpy

    return numpy.ones(SIZE // 8)


def plus_one(array: Any) -> Any:
    return array + 1


def total(array: Any) -> float:
    return float(array.sum())


@pytest.fixture
def run(hook: ModalStepHook, store: Store) -> Callable[..., Any]:
    """Return a function that runs one step as a task does, and returns what the task returns."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        call = FunctionCall(function=function, args=args, kwargs={}, reference=None)
        made = make_step(call, image="python:3.12")
        payload = make_reachable(made.payload, store, hook.inline_limit)
        result_uri = store.uri(result_path(made.spec.labels, made.spec.name))
        spec = replace(made.spec, digest=payload.digest, result_uri=result_uri)
        handle = hook.submit(spec, payload)
        assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
        with at_most(IN_MEMORY):
            report = hook.outcome(handle)
        hook.delete(handle)
        return to_xcom(read_outcome(report, spec.name, spec.nonce)["result"])

    return run


@pytest.fixture
def large(hook: ModalStepHook, step: Callable[..., Step]) -> tuple[Step, JobHandle]:
    """A step that has ended and returned 24 MiB, which nobody has collected."""

    def random() -> bytes:
        return secrets.token_bytes(24 * MIB)

    one = step(random)
    handle = hook.submit(one.spec, one.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
    return one, handle


def loaded(hook: ModalStepHook, one: Step, handle: JobHandle) -> bytes:
    found = to_xcom(read_outcome(hook.outcome(handle), one.spec.name, one.spec.nonce)["result"])
    assert isinstance(found, StepResult)
    value = found.load()
    assert isinstance(value, bytes)
    return value


def test_an_array_through_three_steps(run: Callable[..., Any], modal_server: Modal) -> None:
    """A step gets it by reference, and no reference leads into the Volume, where nothing is left."""
    first = run(ones)
    second = run(plus_one, first)
    assert isinstance(second, StepResult)
    assert second.load().nbytes == SIZE
    assert run(total, second) == SIZE // 8 * 2.0
    assert [one["files"] for one in modal_server.report()["volumes"].values()] == [{}]


def test_a_result_that_was_changed_in_the_volume(
    hook: ModalStepHook, store: Store, large: tuple[Step, JobHandle]
) -> None:
    """Not one byte of it reaches the store."""
    one, handle = large
    files, folder = hook._of(handle).service.files, handle.detail["folder"]
    (name,) = [path for path in files.list(f"{folder}/out") if path.endswith(".bin")]
    data = files.read(name, files.size_of(name))
    files.put(name, data[:-1], bytes([data[-1] ^ 1]))
    with pytest.raises(OutcomeNotReadyError, match="another digest"):
        hook.outcome(handle)
    assert list(store.list("")) == []
    files.put(name, data)
    assert len(loaded(hook, one, handle)) == 24 * MIB


def test_two_workers_at_once(
    hook: ModalStepHook,
    make_hook: Callable[[], ModalStepHook],
    store: Store,
    large: tuple[Step, JobHandle],
) -> None:
    one, handle = large
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: loaded(each, one, handle), [hook, make_hook()]))
    assert found[0] == found[1]
    assert len(list(store.list(""))) == 1


def test_a_worker_that_is_killed_while_it_streams(
    hook: ModalStepHook, store: Store, large: tuple[Step, JobHandle]
) -> None:
    """It leaves no half of a result, and the next try collects the whole."""
    one, handle = large
    given = json.dumps(handle.to_json())
    killed = subprocess.run([sys.executable, "-c", KILLED, given], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr
    assert list(store.list("")) == []
    assert len(loaded(hook, one, handle)) == 24 * MIB


def test_a_bucket_gets_its_results_from_the_sandbox(
    hook: ModalStepHook, step: Callable[..., Step], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signed address. They never lie in the Volume."""
    address = s3_server.new_address()
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    bucket = open_store(address)

    def some() -> bytes:
        return b"x" * MIB

    made = step(some)
    spec = replace(made.spec, result_uri=bucket.uri(result_path(made.spec.labels, made.spec.name)))
    handle = hook.submit(spec, made.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
    out = f"{handle.detail['folder']}/out"
    assert list(hook._of(handle).service.files.list(out)) == [f"{out}/outcome.json"]
    assert loaded(hook, Step(spec, made.payload), handle) == b"x" * MIB
    bucket.delete_folder("")
