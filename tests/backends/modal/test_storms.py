"""A service that fails again and again: every error passes, and there is one sandbox and one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobState
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of

MOST_TRIES = 30


def patiently(hook: ModalStepHook, call: Callable[[], Any]) -> Any:
    """Call until it works, as the lifecycle does: each error must be one that passes."""
    for _ in range(MOST_TRIES):
        try:
            return call()
        except Exception as error:
            if not hook.is_transient(error):
                raise
    raise AssertionError(f"no success in {MOST_TRIES} tries")


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "after", "settings"),
    [("unavailable", True, {}), ("lost", True, {}), ("internal", False, {"gpu": "T4"})],
    ids=["unavailable", "lost", "internal"],
)
def test_every_request_fails_for_a_while(
    kind: str,
    after: bool,
    settings: dict[str, Any],
    make_hook: Callable[[], ModalStepHook],
    step: Callable[..., Step],
    modal_server: Modal,
) -> None:
    """Each RPC fails five times: the client gives up once, and the next call of the hook meets the last."""
    hook, one = make_hook(), step(["echo", "hello"], settings=settings)
    hook.scope()  # the client is open
    for rpc in ("App*", "Volume*", "Image*", "Secret*", "Sandbox*"):
        modal_server.do("fault", kind=kind, rpc=rpc, after=after, count=5)
    handle = patiently(hook, lambda: hook.submit(one.spec, one.payload))
    modal_server.wait_over(handle.name)
    for rpc in ("AppFetchLogs", "AppCountLogs", "SandboxWait*", "VolumeListFiles2", "VolumeGetFile2"):
        modal_server.do("fault", kind=kind, rpc=rpc, after=after, count=5)
    patiently(hook, lambda: hook.status([handle]))
    modal_server.do("clear_faults")
    assert end_of(hook, handle).state is JobState.SUCCEEDED
    assert hook.outcome(handle).digest
    ran = [one for one in modal_server.report()["sandboxes"].values() if one["exit_code"] == 0]
    assert len(ran) == 1
