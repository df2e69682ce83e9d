"""Faults that a test injects into the Modal emulator, and the shape of its answers on the wire."""

from __future__ import annotations

import os
import signal

import pytest

from tests.emulators.modal.faults import Fault
from tests.support.modal import modal
from tests.support.processes import wait_gone
from tests.support.waiting import wait_until


def test_errors_have_the_classes_of_the_client(workspace):
    """Transient ones are tried four times in all; others once."""
    from modal import exception

    expected = {
        "unavailable": (exception.ServiceError, 4),
        "internal": (exception.InternalError, 4),
        "exhausted": (exception.ResourceExhaustedError, 1),
        "denied": (exception.PermissionDeniedError, 1),
        "auth": (exception.AuthError, 1),
    }
    for kind, (error, count) in expected.items():
        workspace.service.do("fault", kind=kind, rpc="AppGetOrCreate")
        workspace.service.do("forget_calls")
        with pytest.raises(error):
            workspace.app()
        assert workspace.service.calls("AppGetOrCreate") == count, kind
        workspace.service.do("clear_faults")


def test_a_fault_that_passes(workspace):
    """The client hides what a second try heals."""
    workspace.service.do("fault", kind="unavailable", rpc="App*", count=2)
    workspace.app()
    assert workspace.service.calls("AppGetOrCreate", "UNAVAILABLE") == 2
    assert workspace.service.calls("AppGetOrCreate", "OK") == 1


def test_throttling_as_the_server_asks(workspace, monkeypatch):
    """With retry information the client waits and tries again; not with MODAL_MAX_THROTTLE_WAIT=0."""
    from modal import exception

    workspace.service.do("fault", kind="throttle", rpc="App*", count=1, retry_after_s=0.05)
    monkeypatch.setenv("MODAL_MAX_THROTTLE_WAIT", "0")
    with pytest.raises(exception.ResourceExhaustedError):
        workspace.app()
    monkeypatch.delenv("MODAL_MAX_THROTTLE_WAIT")
    workspace.service.do("fault", kind="throttle", rpc="App*", count=1, retry_after_s=0.05)
    workspace.app()
    assert workspace.service.calls("AppGetOrCreate", "RESOURCE_EXHAUSTED") == 2


def test_rates_of_requests(workspace):
    from modal import exception

    workspace.service.do("settings", rates={"AppGetOrCreate": [0.001, 1]})
    workspace.app()
    with pytest.raises(exception.ResourceExhaustedError):
        workspace.app()


@pytest.mark.parametrize("kind", ["lost", "unavailable"])
def test_an_answer_that_is_lost(workspace, kind):
    """The sandbox was made, and the client's second try meets its name."""
    from modal import exception

    workspace.simulated("n", run_s=1000)
    workspace.service.do("fault", kind=kind, rpc="SandboxCreateV2", count=1, after=True)
    with pytest.raises(exception.AlreadyExistsError):
        workspace.create("true", name="n")
    assert workspace.listed() == [workspace.find("n").object_id]


def test_an_answer_that_is_lost_and_a_key_that_is_honoured(workspace):
    """Where the service knows the key of a repeated request, the client gets the first answer."""
    workspace.simulated("n", run_s=1000)
    workspace.service.do("settings", honours_idempotency_key=True)
    workspace.service.do("fault", kind="lost", rpc="SandboxCreateV2", count=1, after=True)
    sandbox = workspace.create("true", name="n")
    assert workspace.listed() == [sandbox.object_id]


def test_an_answer_that_is_late(workspace):
    workspace.service.do("fault", kind="slow", rpc="AppGetOrCreate", delay_s=0.05)
    workspace.app()
    assert workspace.service.calls("AppGetOrCreate", "OK") == 1


def test_the_worker_can_fail_too(sandboxes):
    """A stream is resumed at its byte."""
    sandbox = sandboxes.ended("echo", "one")
    sandboxes.service.do("fault", kind="unavailable", rpc="SandboxStdioReadV2", count=1)
    assert sandbox.stdout.read() == "one\n"
    assert sandboxes.service.calls("SandboxStdioReadV2") == 2


def test_tokens_of_the_worker_expire(sandboxes):
    """The client asks for a new one."""
    sandboxes.service.do("settings", router_token_s=0.0)
    sandbox = sandboxes.ended("echo", "one")
    sandboxes.service.do("settings", router_token_s=1000.0)
    assert sandbox.stdout.read() == "one\n"
    assert sandboxes.service.calls("SandboxGetCommandRouterAccess") == 1


def test_orders_that_do_not_exist(modal_server):
    for order, text in (
        ({"order": "destroy"}, "no order 'destroy'; there are"),
        ({"order": "fault", "kind": "flood"}, "no kind of fault: flood"),
        ({"order": "settings", "page_sice": 1}, "Settings has no page_sice"),
        ({"order": "plan", "sandbox": "*", "hodl": []}, "Plan has no hodl"),
        ({"order": "end", "sandbox": "*", "status": "TIRED"}, "TIRED"),
    ):
        with pytest.raises(AssertionError, match=text):
            modal_server.do(**order)


def test_a_fault_ends_after_its_seconds():
    fault = Fault(kind="unavailable", rpc="Sandbox*", seconds=1000.0)
    assert fault.strikes("SandboxListV2")
    assert not fault.strikes("VolumeList")
    fault.since -= 1001
    assert not fault.strikes("SandboxListV2")


def test_an_rpc_that_is_not_emulated(workspace):
    from modal import exception

    with pytest.raises(exception.UnimplementedError, match="the emulator does not know"):
        workspace.app().stats()


def test_sandboxes_die_with_the_emulator(modal_containers):
    """Also when it is killed."""
    from tests.unit.emulators.modal_workspace import Workspace

    with modal() as service:
        workspace = Workspace(service, service.client())
        workspace.create("sleep", "1000", name="n")
        pid = service.wait_started("n")["pid"]
        os.kill(service.process.pid, signal.SIGKILL)
        wait_gone([pid], "the command")


def test_a_reset_ends_everything(sandboxes):
    """What a test left is gone: processes, names, objects, settings."""
    sandboxes.create("sleep", "1000", name="n")
    pid = sandboxes.service.wait_started("n")["pid"]
    sandboxes.service.do("settings", page_size=1)
    sandboxes.service.do("reset")
    wait_gone([pid], "the command")
    report = sandboxes.service.report()
    assert [report[kind] for kind in ("sandboxes", "apps", "volumes", "secrets", "images")] == [{}] * 5
    wait_until(lambda: sandboxes.app().app_id, "the workspace to answer")
