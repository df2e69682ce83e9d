"""Steps in sandboxes without a bucket: their input and their results pass through the Volume."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from airflow_stepop.exceptions import OutcomeLostError, OutcomeNotReadyError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.modal import sandboxes
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.results import StepResult
from airflow_stepop.stores.base import Store
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of


def result(hook: ModalStepHook, step: Step, handle: JobHandle) -> object:
    found = read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)
    assert "result" in found, found
    return to_xcom(found["result"])


def test_a_large_result_is_in_the_store_when_the_volume_is_empty(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    """A reference never points into the Volume."""

    def large() -> bytes:
        return bytes(range(256)) * 40_000

    one = step(large)
    handle = hook.submit(one.spec, one.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
    found = result(hook, one, handle)
    hook.delete(handle)
    assert isinstance(found, StepResult)
    assert found.load() == bytes(range(256)) * 40_000
    assert [one["files"] for one in modal_server.report()["volumes"].values()] == [{}]


def test_several_large_results(hook: ModalStepHook, step: Callable[..., Step]) -> None:
    """Also when another worker has copied them before."""

    def two() -> dict[str, bytes]:
        return {"a": b"a" * 100_000, "b": b"b" * 200_000}

    one = step(two)
    handle = hook.submit(one.spec, one.payload)
    end_of(hook, handle)
    reports = [hook.outcome(handle) for _ in range(2)]
    assert reports[0] == reports[1]
    assert result(hook, one, handle).load() == {"a": b"a" * 100_000, "b": b"b" * 200_000}  # type: ignore[attr-defined]


def test_the_volume_may_be_late(hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal) -> None:
    """Files that come after the end are waited for; nothing torn is believed."""

    def large() -> bytes:
        return b"x" * 100_000

    one = step(large)
    handle = hook.submit(one.spec, one.payload)
    end_of(hook, handle)
    files, folder = hook._of(handle).service.files, handle.detail["folder"]
    (name,) = [path for path in files.list(f"{folder}/out") if path.endswith(".bin")]
    data = files.read(name, 100_000)
    files.put(name, data[:-1])
    with pytest.raises(OutcomeNotReadyError, match="is not the result"):
        hook.outcome(handle)
    files.delete(name)
    with pytest.raises(OutcomeNotReadyError, match="has no file"):
        hook.outcome(handle)
    files.put(name, data)
    assert result(hook, one, handle).load() == data  # type: ignore[attr-defined]


def test_secrets_travel_in_a_secret_of_the_sandbox(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    """Their values are in no file of the Volume, no tag and no word of the command."""
    value = secrets.token_hex(16)
    command = [
        "sh",
        "-c",
        f'echo "$TOKEN"; printf "$TOKEN" | sha256sum | grep {sha256(value.encode()).hexdigest()}',
    ]
    one = step(command, secrets={"TOKEN": value})
    handle = hook.submit(one.spec, one.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
    assert next(line.text for line in hook.tail(handle, 5).lines) == "***"
    known = modal_server.sandbox(handle.name)
    assert value not in json.dumps(known)
    files = hook._of(handle).service.files
    paths = list(files.list(handle.detail["folder"]))
    assert not any(path.endswith("secrets.json.sealed") for path in paths)
    assert not any(value.encode() in b"".join(files.chunks(path)) for path in paths)


def test_large_secrets_are_sealed_in_the_volume(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    value = secrets.token_hex(20_000)
    one = step(["sh", "-c", "test ${#TOKEN} = 40000"], secrets={"TOKEN": value})
    handle = hook.submit(one.spec, one.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED, hook.tail(handle, 20)
    files = hook._of(handle).service.files
    sealed = [path for path in files.list(handle.detail["folder"]) if path.endswith("secrets.json.sealed")]
    assert len(sealed) == 1
    assert value[:100].encode() not in b"".join(files.chunks(sealed[0]))
    hook.delete_secrets(handle)
    assert not any(path.endswith(".sealed") for path in files.list(handle.detail["folder"]))


def test_an_entrypoint_of_the_image_does_not_run(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    modal_server.do("image", tag="trap:*", entrypoint=["echo", "trapped"])
    handle = submit(["echo", "hello"], image="trap:1")
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert [line.text for line in hook.tail(handle, 5).lines] == ["hello"]


def test_a_killed_sandbox_says_why(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    modal_server.do("plan", sandbox="*", end="KERNEL_OOM_KILL")
    status = end_of(hook, submit(["sleep", "600"]))
    assert status.failure is not None
    assert (status.state, status.failure.category) == (JobState.FAILED, Category.OOM)


STOPPED = {"status": "failed", "failure": {"category": "cancelled", "summary": "SIGTERM"}}
ENDED = {"status": "failed", "failure": {"category": "user_error", "summary": "ValueError"}}


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(STOPPED, OutcomeLostError), (ENDED, OutcomeNotReadyError)],
    ids=["stopped", "ended"],
)
def test_a_machine_is_taken_away_before_the_receipt_is_written(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
    outcome: dict[str, Any],
    error: type[Exception],
) -> None:
    """Nobody waits for the receipt of a step that a signal stopped. That of another step may only be late."""
    monkeypatch.setattr(sandboxes, "RECEIPT_S", 0.0)
    handle = submit(["sleep", "600"], settings={"gpu": "T4"})
    modal_server.wait_started(handle.name)
    path = f"{handle.detail['folder']}/out/outcome.json"
    hook._of(handle).service.files.put(path, json.dumps(outcome).encode())
    modal_server.do("end", sandbox=handle.name, status="TERMINATED")
    status = end_of(hook, handle)
    assert status.failure is not None
    assert status.failure.category is Category.PREEMPTED
    with pytest.raises(error):
        hook.outcome(handle)


def test_a_checkpoint_without_a_bucket(
    hook: ModalStepHook, step: Callable[..., Step], store: Store, modal_server: Modal
) -> None:
    """The next job of the task finds it, also after a kill; after a success nothing is left."""
    uri = store.uri("checkpoints/team/dag/run/task/-1/arguments")
    leave = 'echo 7 > "$STEPOP_CHECKPOINT_DIR/epoch"; '
    fails = step(["sh", "-c", f"{leave} exit 3"], checkpoint_uri=uri)
    first = hook.submit(fails.spec, fails.payload)
    assert end_of(hook, first).state is JobState.FAILED
    hook.delete(first)
    goes_on = step(["sh", "-c", 'cat "$STEPOP_CHECKPOINT_DIR/epoch"'], checkpoint_uri=uri)
    second = hook.submit(goes_on.spec, goes_on.payload)
    assert end_of(hook, second).state is JobState.SUCCEEDED, hook.tail(second, 20)
    assert [line.text for line in hook.tail(second, 5).lines][-1] == "7"
    hook.delete(second)
    assert [one["files"] for one in modal_server.report()["volumes"].values()] == [{}, {}]
