"""How sandboxes of the Modal emulator are found: by name, by id, in lists, and by their Apps."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_until


def test_a_name_is_unique_among_running_ones(workspace):
    """After the end it is free again. V1 and V2 share the names of an App; Apps have names of their own."""
    import modal

    workspace.simulated("*", run_s=1000)
    first = workspace.create("true", name="n")
    for options in ({}, {"gpu": "T4"}):
        with pytest.raises(modal.exception.AlreadyExistsError):
            workspace.create("true", name="n", **options)
    workspace.create("true", name="n", app=workspace.app("another"))
    first.terminate(wait=True)
    assert workspace.create("true", name="n").object_id != first.object_id


def test_from_name_of_v2(workspace):
    """Running ones; with include_terminated also the newest that ended."""
    import modal

    name = workspace.simulated("n", run_s=1000)
    first = workspace.create("true", name=name)
    assert workspace.find(name).object_id == first.object_id
    first.terminate(wait=True)
    with pytest.raises(modal.exception.NotFoundError):
        workspace.find(name)
    found = workspace.find(name, include_terminated=True)
    assert (found.object_id, found.poll()) == (first.object_id, 137)
    second = workspace.create("true", name=name)
    second.terminate(wait=True)
    assert workspace.find(name, include_terminated=True).object_id == second.object_id
    third = workspace.create("true", name=name)
    assert workspace.find(name, include_terminated=True).object_id == third.object_id


def test_from_name_of_v1(workspace):
    """With a GPU: only while it runs, unless the service is set otherwise. By id it stays."""
    import modal

    name = workspace.simulated("n", run_s=1000)
    sandbox = workspace.create("true", name=name, gpu="T4")
    assert workspace.find(name).object_id == sandbox.object_id
    sandbox.terminate(wait=True)
    for options in ({}, {"include_terminated": True}):
        with pytest.raises(modal.exception.NotFoundError):
            workspace.find(name, **options)
    assert modal.Sandbox.from_id(sandbox.object_id, client=workspace.client).poll() == 137
    workspace.service.do("settings", v1_found_after_exit=True)
    assert workspace.find(name, include_terminated=True).poll() == 137


def test_from_name_in_another_environment(workspace):
    import modal

    workspace.simulated("*", run_s=1000)
    workspace.service.do("environment", name="other")
    sandbox = workspace.create("true", name="n", app=workspace.app(environment_name="other"))
    with pytest.raises(modal.exception.NotFoundError):
        workspace.find("n")
    assert workspace.find("n", environment_name="other").object_id == sandbox.object_id
    with pytest.raises(modal.exception.NotFoundError, match="Environment 'missing'"):
        workspace.find("n", environment_name="missing")


def test_from_id(workspace):
    import modal

    workspace.simulated("*", exit_code=7)
    ended = workspace.ended("true")
    again = modal.Sandbox.from_id(ended.object_id, client=workspace.client)
    assert again.returncode == 7
    for unknown in ("sb-" + "A" * 22, "sb-" + "0" * 26):
        with pytest.raises(modal.exception.NotFoundError):
            modal.Sandbox.from_id(unknown, client=workspace.client)


def test_a_list_has_pages(workspace):
    """Newest first; both versions; an empty page is the last."""
    workspace.simulated("*", run_s=1000)
    workspace.service.do("settings", page_size=2)
    created = [
        workspace.create("true", **({"gpu": "T4"} if number == 1 else {})).object_id for number in range(5)
    ]
    workspace.create("true", app=workspace.app("another"))
    workspace.service.do("forget_calls")
    assert workspace.listed() == created[::-1]
    assert workspace.service.calls("SandboxListV2") == 4


def test_a_list_by_tags(workspace):
    """At least these tags; tags can be replaced."""
    workspace.simulated("*", run_s=1000)
    both = workspace.create("true", tags={"a": "1", "b": "2"})
    one = workspace.create("true", tags={"a": "1"})
    assert workspace.listed(a="1") == [one.object_id, both.object_id]
    assert workspace.listed(a="1", b="2") == [both.object_id]
    assert workspace.listed(a="2") == []
    one.set_tags({"c": "3"})
    assert (one.get_tags(), workspace.listed(c="3")) == ({"c": "3"}, [one.object_id])


def test_a_list_with_finished_ones(workspace):
    """The message has a field that the public API hides; the answers have results."""
    from modal_proto import api_pb2

    workspace.simulated("*", exit_code=7)
    sandbox = workspace.ended("true", name="n", tags={"a": "1"})
    assert workspace.listed() == []
    request = api_pb2.SandboxListRequest(app_id=workspace.app().app_id, include_finished=True)
    (found,) = workspace.raw("SandboxListV2", request).sandboxes
    assert (found.id, found.name, found.task_info.result.exitcode) == (sandbox.object_id, "n", 7)
    assert found.task_info.finished_at >= found.task_info.started_at > 0


def test_a_new_sandbox_is_in_no_list_for_a_while(workspace):
    workspace.simulated("*", run_s=1000)
    workspace.service.do("settings", list_lag_s=0.1)
    workspace.service.do("plan", sandbox="n", hold=["list"])
    sandbox = workspace.create("true", name="n")
    assert workspace.listed() == []
    assert workspace.find("n").object_id == sandbox.object_id
    workspace.service.do("release", sandbox="n", phase="list")
    wait_until(workspace.listed, "the list", holds=lambda found: found == [sandbox.object_id])


def test_apps(workspace):
    """Looked up by name or id; made once; a stop ends what runs in it."""
    import modal

    app = workspace.app()
    assert workspace.app().app_id == app.app_id
    assert modal.App.lookup(app.app_id, client=workspace.client).app_id == app.app_id
    with pytest.raises(modal.exception.NotFoundError):
        modal.App.lookup("no-such-app", client=workspace.client)
    workspace.simulated("*", run_s=1000)
    sandbox = workspace.create("true")
    app.stop()
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137
    assert workspace.app().app_id != app.app_id
    assert app.get_dashboard_url().endswith(app.app_id)
