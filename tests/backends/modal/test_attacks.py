"""Attackers and what stops them: writers of the Volume, other sandboxes of the App, a step's own output.

Each test does what its attacker would do, by the service's own API. docs/security.md lists what succeeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_stepop.exceptions import OutcomeNotReadyError, StoreError
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of

FORGED = b'{"forged": true}'
RECEIPT = json.dumps({"protocol": 1, "digest": hashlib.sha256(FORGED).hexdigest(), "size": len(FORGED)})


def volume_of(hook: ModalStepHook, handle: JobHandle) -> Any:
    return hook._of(handle).service.files


def test_a_receipt_that_another_wrote_after_the_runner(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """A process that the step has left behind writes into the log of its sandbox, and into the Volume."""
    handle = submit(["true"])
    end_of(hook, handle)
    before = hook.outcome(handle)
    modal_server.do("say", sandbox=handle.name, text=f"{RECEIPT_PREFIX}{RECEIPT}")
    path = f"{handle.detail['folder']}/out/outcome.json"
    volume_of(hook, handle).put(path, FORGED.ljust(len(before.data)))
    fresh = ModalStepHook()
    chunk = fresh.logs({handle: None})[handle]
    assert chunk.receipt is not None
    assert json.loads(chunk.receipt)["digest"] == before.digest
    assert fresh.outcome(handle).digest == before.digest, "the forged bytes have another digest"


def test_a_receipt_without_the_runner_is_none(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nonce is in the tags, and the MAC needs a key of the deployment."""
    monkeypatch.setattr("airflow_stepop.hooks.modal.sandboxes.RECEIPT_S", 0.0)
    modal_server.do("plan", sandbox="*", run=False, hold=["end"])
    handle = submit(["true"])
    modal_server.wait_started(handle.name)
    modal_server.do("say", sandbox=handle.name, text=f"{RECEIPT_PREFIX}{RECEIPT}")
    volume_of(hook, handle).put(f"{handle.detail['folder']}/out/outcome.json", FORGED)
    modal_server.do("release", sandbox="*", phase="end")
    modal_server.wait_over(handle.name)
    end_of(hook, handle)
    with pytest.raises(OutcomeNotReadyError, match="is not in the log"):
        hook.outcome(handle)


def test_a_step_that_prints_receipts_of_its_own(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """A receipt in the log is no outcome: a step that prints one and is killed has not succeeded."""
    modal_server.do("plan", sandbox="*", end="INTERNAL_FAILURE", hold=["end"])
    handle = submit(["echo", f"{RECEIPT_PREFIX}{RECEIPT}"])
    modal_server.do("release", sandbox="*", phase="end")
    modal_server.wait_over(handle.name)
    assert end_of(hook, handle).state is JobState.FAILED


def test_a_sandbox_that_copies_the_tags_of_a_job(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """Whoever may create sandboxes can copy tags. The name is another one, so it is none of our jobs."""
    import modal

    modal_server.do("plan", sandbox="*", hold=["start"])
    handle = submit(["true"])
    client = modal_server.client()
    app = modal.App.lookup("airflow-stepop", client=client)
    tags = modal_server.sandbox(handle.name)["tags"]
    image = modal.Image.from_registry("python:3.12")
    modal.Sandbox.create("true", app=app, client=client, image=image, name="evil", tags=tags)
    assert [job.handle.id for job in hook.find({"deployment": "contract"})] == [handle.id]


@pytest.mark.parametrize("text", ["", "{", '{"job": 7}', "x" * 100_000], ids=["empty", "torn", "odd", "huge"])
def test_a_marker_that_somebody_has_planted_stops_one_job_only(
    text: str,
    hook: ModalStepHook,
    step: Callable[..., Step],
    submit: Callable[..., JobHandle],
    modal_server: Modal,
) -> None:
    """A sandbox that ran nothing is followed to the one in the marker; a damaged marker names none."""
    modal_server.do("plan", sandbox="*", run=False, exit_code=65)
    handle, other = submit(["true"]), submit(["true"])
    volume_of(hook, handle).put(f"{handle.detail['folder']}/started", text.encode())
    modal_server.wait_over(handle.name)
    assert end_of(hook, handle).state is JobState.FAILED
    assert hook.status([handle, other]).keys() == {handle, other}


def test_an_outcome_that_grew_is_not_read_to_its_end(
    hook: ModalStepHook, submit: Callable[..., JobHandle]
) -> None:
    """The receipt says how many bytes there are: a writer of the Volume cannot fill the worker's memory."""
    handle = submit(["true"])
    end_of(hook, handle)
    files, path = volume_of(hook, handle), f"{handle.detail['folder']}/out/outcome.json"
    size = files.size_of(path)
    files.put(path, b"\0" * (40 << 20))
    with pytest.raises(StoreError, match=f"more than {size} bytes"):
        files.read(path, size)
    with pytest.raises(OutcomeNotReadyError):
        hook.outcome(handle)
