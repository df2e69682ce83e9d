"""Sandboxes with GPUs: nobody waits for a machine, and a machine that is taken away is a preemption."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.stores.base import Store
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of
from tests.support.waiting import wait_until

GPU = {"gpu": "T4"}


@pytest.fixture(params=["private", "public"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the private door, and with a process of its own that calls the public interface."""
    if request.param == "public":
        names = private.DOORS[private.STARTING]
        monkeypatch.setitem(private.DOORS, private.STARTING, (*names, "modal.sandbox:gone"))
    return str(request.param)


def test_a_submit_does_not_wait_for_a_machine(
    way: str, hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    modal_server.do("plan", sandbox="*", hold=["queue"])
    handle = submit(["echo", "hello"], settings=GPU)
    status = hook.status([handle])[handle]
    assert (status.state, status.native) == (JobState.PENDING, "QUEUED")
    modal_server.do("release", sandbox="*", phase="queue")
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert [line.text for line in hook.tail(handle, 5).lines] == ["hello"]


def test_what_the_service_refuses_is_said(
    way: str, hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    modal_server.do("settings", gpus=["H100"])
    one = step(["true"], settings=GPU)
    with pytest.raises(StepConfigError, match=r"(?is)refused the sandbox.*T4"):
        hook.submit(one.spec, one.payload)


def test_a_machine_that_is_taken_away(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    handle = submit(["sleep", "600"], settings=GPU)
    modal_server.wait_started(handle.name)
    modal_server.do("preempt", sandbox=handle.name)
    status = end_of(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is Category.PREEMPTED


def test_a_preempted_step_goes_on_from_its_checkpoint(
    hook: ModalStepHook, step: Callable[..., Step], store: Store, modal_server: Modal
) -> None:
    """What was saved before is there, also if the service keeps nothing of a sandbox that was killed."""
    modal_server.do("settings", commit_after_kill=False)
    uri = store.uri("checkpoints/team/dag/run/task/-1/arguments")
    train = 'cd "$STEPOP_CHECKPOINT_DIR"; cat epoch || { echo 7 > epoch; sleep 600; }'
    one, other = (step(["sh", "-c", train], settings=GPU, checkpoint_uri=uri) for _ in range(2))
    first = hook.submit(one.spec, one.payload)
    checkpoints = hook._of(first).service.checkpoints
    wait_until(lambda: [*checkpoints.list("checkpoints")], "a checkpoint in the Volume")
    modal_server.do("preempt", sandbox=first.name)
    status = end_of(hook, first)
    assert status.failure is not None
    assert status.failure.category is Category.PREEMPTED
    hook.delete(first)
    second = hook.submit(other.spec, other.payload)
    assert end_of(hook, second).state is JobState.SUCCEEDED, hook.tail(second, 20)
    assert hook.tail(second, 5).lines[-1].text == "7"
    hook.delete(second)
    assert [one["files"] for one in modal_server.report()["volumes"].values()] == [{}, {}]


def test_a_cancelled_step_is_no_preemption(
    hook: ModalStepHook,
    make_hook: Callable[[], ModalStepHook],
    submit: Callable[..., JobHandle],
    modal_server: Modal,
) -> None:
    """Also for a process that has not cancelled it. It is over when the service says so."""
    modal_server.do("plan", sandbox="*", hold=["result"])
    handle = submit(["sleep", "600"], settings=GPU)
    modal_server.wait_started(handle.name)
    hook.cancel(handle)
    assert not hook.status([handle])[handle].state.is_terminal
    modal_server.do("release", sandbox="*", phase="result")
    assert end_of(make_hook(), handle).state is JobState.CANCELLED


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_submit_after_the_end_starts_nothing(
    is_listed: bool,
    hook: ModalStepHook,
    make_hook: Callable[[], ModalStepHook],
    step: Callable[..., Step],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of such a sandbox is free again at once. A list may show it, and the job's folder does."""
    one = step(["echo", "hello"], settings=GPU)
    handle = hook.submit(one.spec, one.payload)
    end_of(hook, handle)
    if not is_listed:
        names = private.DOORS[private.LISTING]
        monkeypatch.setitem(private.DOORS, private.LISTING, (*names, "modal.sandbox:gone"))
    other = make_hook()
    again = other.submit(one.spec, one.payload)
    assert (again == handle) is is_listed
    assert len(modal_server.report()["sandboxes"]) == 1
    assert end_of(other, again).state is JobState.SUCCEEDED
    assert [line.text for line in other.tail(again, 5).lines] == ["hello"]
    assert other.outcome(again).data == hook.outcome(handle).data
