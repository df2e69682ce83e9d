"""The states of sandboxes: from one list, by id for what it does not show, and at the end from the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_stepop.failure import Category
from airflow_stepop.hooks.modal import service
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.hooks.modal.private import Result, Seen
from airflow_stepop.hooks.modal.states import STATES
from airflow_stepop.hooks.modal.status import ended_status
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of

V1, V2 = "sb-0123456789abcdefABCDEF", "sb-01K00000000000000000000000"
CATEGORIES = {
    "TIMEOUT": Category.TIMEOUT,
    "KERNEL_OOM_KILL": Category.OOM,
    "MEMORY_THRASHING_EVICTION": Category.OOM,
    "MEMORY_MANAGER_EVICTION": Category.PREEMPTED,
    "INTERNAL_FAILURE": Category.INFRA,
    "IDLE_TIMEOUT": Category.BAD_CONFIG,
    "INIT_FAILURE": Category.BAD_CONFIG,
    "TERMINATED": Category.INFRA,
    "SUCCESS": Category.LOST,
}


def ended(status: str, code: int = 0, text: str = "", sandbox: str = V2) -> Seen:
    return Seen(sandbox, name="s-a", result=Result(status, code, text))


def test_the_table_is_total() -> None:
    from modal_proto import api_pb2

    names = api_pb2.GenericResult.GenericStatus.keys()
    assert {name.removeprefix("GENERIC_STATUS_") for name in names} == set(STATES.states)


@pytest.mark.parametrize("status", sorted({*STATES.states} - {"UNSPECIFIED", "FAILURE"}))
def test_exit_code_0_without_an_outcome_is_never_success(status: str) -> None:
    """The service leaves the exit code unset, which reads as 0, in every status."""
    found = ended_status(ended(status), is_ours=False, has_outcome=False)
    assert found.state is JobState.FAILED
    assert found.failure is not None
    assert found.failure.category is CATEGORIES[status]


@pytest.mark.parametrize(
    ("seen", "is_ours", "state", "category"),
    [
        (ended("SUCCESS"), False, JobState.SUCCEEDED, None),
        (ended("FAILURE", 1), False, JobState.FAILED, None),
        (ended("FAILURE", 127), False, JobState.FAILED, Category.BAD_CONFIG),
        (ended("TERMINATED"), True, JobState.CANCELLED, Category.CANCELLED),
        (ended("TERMINATED", sandbox=V1), False, JobState.FAILED, Category.PREEMPTED),
        (ended("INIT_FAILURE", text="pull access denied"), False, JobState.FAILED, Category.IMAGE_PULL),
        (ended("STATUS_99", 0), False, JobState.SUCCEEDED, None),
        (ended("STATUS_99", 1), False, JobState.FAILED, None),
    ],
)
def test_ends(seen: Seen, is_ours: bool, state: JobState, category: Category | None) -> None:
    found = ended_status(seen, is_ours=is_ours, has_outcome=True)
    assert found.state is state
    assert (found.failure.category if found.failure else None) is category


def test_many_jobs_cost_the_pages_of_one_list(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """What has ended is asked for once, and costs nothing after that."""
    modal_server.do("settings", page_size=4)
    modal_server.do("plan", sandbox="*", hold=["start"])
    handles = [submit() for _ in range(9)]
    hook.status(handles)
    modal_server.do("forget_calls")
    assert {one.state for one in hook.status(handles).values()} == {JobState.RUNNING}
    calls = modal_server.report()["calls"]
    assert sum(calls.values()) == modal_server.calls("SandboxListV2") <= 4, calls
    modal_server.do("release", sandbox=handles[0].name, phase="start")
    end_of(hook, handles[0])
    modal_server.do("forget_calls")
    found = hook.status(handles)
    assert found[handles[0]].state is JobState.SUCCEEDED
    calls = modal_server.report()["calls"]
    assert sum(calls.values()) == modal_server.calls("SandboxListV2") <= 4, calls


class Clock:
    """A clock that stands still until a test moves it."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


def test_a_list_of_several_pages_is_used_again_for_a_while(
    hook: ModalStepHook,
    submit: Callable[..., JobHandle],
    modal_server: Modal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So all its pages stay below a request a second. A list of one page is read at each poll."""
    clock = Clock()
    monkeypatch.setattr(service, "time", clock)
    modal_server.do("settings", page_size=2)
    modal_server.do("plan", sandbox="*", hold=["start"])
    handles = [submit(), submit()]
    one = hook._of(handles[0]).service

    def lists() -> int:
        modal_server.do("forget_calls")
        assert len(one.running()) == len(handles)
        return modal_server.calls("SandboxListV2")

    assert (lists() > 0, lists() > 0) == (True, True)
    handles += [submit() for _ in range(3)]  # three pages
    requests = lists()
    assert requests >= 3
    assert lists() == 0
    clock.now_s += requests * service.PAGE_S - 0.1
    assert lists() == 0
    clock.now_s += 0.2
    assert lists() > 0


def test_a_sandbox_that_the_list_does_not_show_yet_runs(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """Absent is not ended."""
    modal_server.do("settings", list_lag_s=3600.0)
    modal_server.do("plan", sandbox="*", hold=["start"])
    handles = [submit() for _ in range(5)]
    assert {one.state for one in hook.status(handles).values()} == {JobState.RUNNING}


def test_an_outcome_that_comes_late_is_waited_for(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    """An exit code of 0 is a success when the outcome is there, and runs until then."""
    one = step(["true"])
    handle = hook.submit(one.spec, one.payload)
    modal_server.wait_over(handle.name)
    files, path = hook._of(handle).service.files, f"{handle.detail['folder']}/out/outcome.json"
    data = files.read(path, files.size_of(path))
    files.delete(path)
    assert hook.status([handle])[handle].state is JobState.RUNNING
    files.put(path, data)
    status = hook.status([handle])[handle]
    assert status.state is JobState.SUCCEEDED
    assert status.usage["wall_s"] > 0


def test_a_killed_sandbox_commits_nothing(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """The runner has committed the outcome before: it is read although the sandbox was killed."""
    modal_server.do("settings", commit_after_kill=False, commit_lag_s=3600.0)
    handle = submit(["true"])
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert hook.outcome(handle).data


def test_a_sandbox_of_somebody_else_is_refused(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    import modal

    from airflow_stepop.exceptions import StepConfigError

    client = modal_server.client()
    app = modal.App.lookup("airflow-stepop", client=client, create_if_missing=True)
    one = step(["true"])
    image = modal.Image.from_registry("python:3.12")
    modal.Sandbox.create("sleep", "600", app=app, client=client, image=image, name=one.spec.name)
    with pytest.raises(StepConfigError, match="another nonce"):
        hook.submit(one.spec, one.payload)


def test_a_service_that_is_away_is_no_state(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    modal_server.do("plan", sandbox="*", hold=["start"])
    handle = submit()
    hook.status([handle])
    modal_server.do("fault", kind="unavailable", rpc="SandboxWaitV2", count=10)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the client's own
        hook.status([handle])
    assert hook.is_transient(caught.value)
    modal_server.do("clear_faults")
    assert hook.status([handle])[handle].state is JobState.RUNNING


def test_a_lost_answer_makes_no_second_sandbox(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    modal_server.do("fault", kind="lost", rpc="SandboxCreateV2", after=True, count=1)
    one = step(["true"])
    handle = hook.submit(one.spec, one.payload)
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert len(modal_server.report()["sandboxes"]) == 1
