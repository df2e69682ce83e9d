"""What others change around the jobs: variables of the process, the App, the Volume, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of

SKEW_S = 600.0


def test_the_older_kind_of_sandbox_is_not_waited_for(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps without a GPU get it with MODAL_SANDBOX_V2=0. ``Sandbox.create`` would wait for its machine."""
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")
    modal_server.do("plan", sandbox="*", hold=["queue"])
    handle = submit(["echo", "hello"])
    assert hook.status([handle])[handle].state is JobState.PENDING
    modal_server.do("release", sandbox="*", phase="queue")
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert [line.text for line in hook.tail(handle, 5).lines] == ["hello"]


def test_a_list_without_tags(
    make_hook: Callable[[], ModalStepHook], step: Callable[..., Step], modal_server: Modal
) -> None:
    """Modal's own test server gives none in a list, and selects by them."""
    modal_server.do("settings", lists_tags=False)
    one = step(["true"], settings={"gpu": "T4"})
    modal_server.do("plan", sandbox="*", hold=["start"])
    handle = make_hook().submit(one.spec, one.payload)
    for hook in (make_hook(), make_hook()):
        found = hook.lookup(one.spec)
        assert found is not None
        assert found.id == handle.id
        assert [job.handle.id for job in hook.find({"deployment": "contract"})] == [handle.id]


def test_another_environment_is_no_deleted_job(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A triggerer with another MODAL_ENVIRONMENT than the worker looks into another Volume."""
    handle = submit(["true"])
    modal_server.wait_over(handle.name)
    modal_server.do("environment", name="dev")
    monkeypatch.setenv("MODAL_ENVIRONMENT", "dev")
    other = ModalStepHook()
    for ask in (lambda: other.status([handle]), lambda: other.fresh_status(handle)):
        with pytest.raises(StepConfigError, match="test-workspace/dev"):
            ask()
    monkeypatch.delenv("MODAL_ENVIRONMENT")
    assert end_of(ModalStepHook(), handle).state is JobState.SUCCEEDED


def test_an_app_and_a_volume_that_somebody_has_deleted(
    hook: ModalStepHook,
    step: Callable[..., Step],
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that knows the old ones finds the jobs in the new ones, and their logs."""
    import modal

    monkeypatch.setattr("airflow_stepop.hooks.modal.volume.SURE_S", 0.0)
    monkeypatch.setattr("airflow_stepop.hooks.modal.service.APP_S", 0.0)
    end_of(hook, submit(["true"]))
    client = modal_server.client()
    modal.Volume.objects.delete("airflow-stepop", client=client)
    app_id = next(iter(modal_server.report()["apps"]))
    modal_server.do("stop", app_id=app_id)
    made = step(["echo", "hello"])
    one = ModalStepHook().submit(made.spec, made.payload)
    assert end_of(hook, one).state is JobState.SUCCEEDED
    assert [line.text for line in hook.logs({one: None})[one].lines] == ["hello"]
    assert hook.outcome(one).digest


def test_the_clock_of_the_worker_is_ahead(
    make_hook: Callable[[], ModalStepHook],
    step: Callable[..., Step],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By ten minutes: the log, the receipt and a late outcome are found all the same."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + SKEW_S)
    hook, one = make_hook(), step(["echo", "hello"])
    handle = hook.submit(one.spec, one.payload)
    modal_server.wait_over(handle.name)
    files, path = hook._of(handle).service.files, f"{handle.detail['folder']}/out/outcome.json"
    data = files.read(path, files.size_of(path))
    files.delete(path)
    assert hook.status([handle])[handle].state is JobState.RUNNING, "its outcome is late"
    files.put(path, data)
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert [line.text for line in hook.logs({handle: None})[handle].lines] == ["hello"]
    assert make_hook().outcome(handle).digest


def test_more_output_than_the_client_fetches(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client gives up on so many entries at once. The newest ones of each job are read then."""
    handle = submit(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; done"])
    end_of(hook, handle)
    monkeypatch.setattr("modal._logs._FETCH_LIMIT", 2)
    monkeypatch.setattr("airflow_stepop.hooks.modal.job_logs.MOST", 2)
    chunk = hook.logs({handle: None})[handle]
    assert chunk.receipt is not None
    assert [line.text for line in chunk.lines][-1:] == ["9"]


def test_a_token_without_the_right_to_look(
    make_hook: Callable[[], ModalStepHook], submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """It is an error, and no state of a job."""
    handle = submit(["true"])
    modal_server.wait_over(handle.name)
    modal_server.do("fault", kind="denied", rpc="VolumeListFiles2")
    with pytest.raises(Exception, match="permission denied"):
        make_hook().status([handle])
