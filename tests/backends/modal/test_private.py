"""The private doors of the package ``modal``: each does what the public interface cannot, in this version."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_stepop.hooks.modal import private
from tests.support.modal import Modal

pytestmark = pytest.mark.usefixtures("modal_containers")


@pytest.fixture
def client(modal_server: Modal) -> Any:
    return modal_server.client()


@pytest.fixture
def app(client: Any) -> Any:
    import modal

    return modal.App.lookup("steps", client=client, create_if_missing=True)


@pytest.fixture
def create(client: Any, app: Any) -> Any:
    import modal

    def create(*words: str, **options: Any) -> str:
        options["image"] = modal.Image.from_registry("python:3.12")
        return str(modal.Sandbox.create(*words, app=app, client=client, **options).object_id)

    return create


@pytest.mark.parametrize("door", private.DOORS)
def test_every_door_is_open_in_the_installed_version(door: str) -> None:
    assert private.missing(door) == []
    assert private.WITHOUT[door]


def test_a_door_without_its_names_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said by its name."""
    gone = ("modal._logs:gone", "modal.never:was")
    monkeypatch.setitem(private.DOORS, private.LOGS, (*private.DOORS[private.LOGS], *gone))
    assert private.missing(private.LOGS) == [*gone]
    assert not private.is_open(private.LOGS)


def test_the_end_of_a_sandbox(modal_server: Modal, client: Any, create: Any) -> None:
    """The status and its reason, not the exit code alone: an unset code is 0 in every status."""
    modal_server.do("plan", sandbox="oom", end="KERNEL_OOM_KILL")
    one = create("sleep", "60", name="oom")
    modal_server.wait_over("oom")
    found = private.result_of(client, one)
    assert found is not None
    assert (found.status, found.exit_code) == ("KERNEL_OOM_KILL", 0)


def test_a_running_sandbox_has_no_end(client: Any, create: Any) -> None:
    assert private.result_of(client, create("sleep", "60", name="runs")) is None


def test_an_unknown_sandbox(client: Any) -> None:
    from modal.exception import NotFoundError

    with pytest.raises(NotFoundError):
        private.result_of(client, "sb-01K0000000000000000000ZZZZ")


def test_a_list_with_those_that_have_ended(modal_server: Modal, client: Any, app: Any, create: Any) -> None:
    modal_server.do("settings", page_size=2)
    begin = time.time()
    for number in range(5):
        create("true", name=f"s-{number}", tags={"kind": "short", "number": str(number)})
    for number in range(5):
        modal_server.wait_over(f"s-{number}")
    runs = create("sleep", "60", name="runs")
    short, requests = private.listed(client, app.app_id, {"kind": "short"}, is_running=False)
    assert [one.name for one in short] == [f"s-{number}" for number in reversed(range(5))]
    assert requests == 4, "a page for two of them, and an empty one"
    for one in short:
        assert one.result is not None
        assert one.result.status == "SUCCESS"
        assert begin - 1 < (one.created_at or 0) <= (one.started_at or 0) <= (one.finished_at or 0)
        assert one.task_id
        assert one.tags["kind"] == "short"
    assert [one.id for one in private.listed(client, app.app_id, {}, is_running=True)[0]] == [runs]
    late = short[1].created_at or 0.0
    assert len(private.listed(client, app.app_id, {"kind": "short"}, is_running=False, since=late)[0]) == 2


def test_a_sandbox_with_a_gpu_is_created_without_waiting(modal_server: Modal, client: Any, app: Any) -> None:
    modal_server.do("plan", sandbox="gpu", hold=["queue"])
    import modal

    options = {"app": app, "client": client, "gpu": "T4", "image": modal.Image.from_registry("python:3.12")}
    one = private.start(("echo", "hello"), {**options, "name": "gpu"})
    assert private.task_of(client, one) == ""
    assert private.result_of(client, one) is None
    modal_server.do("release", sandbox="gpu", phase="queue")
    modal_server.wait_over("gpu")
    assert private.task_of(client, one)
    found = private.result_of(client, one)
    assert found is not None
    assert found.status == "SUCCESS"


def test_the_log_of_an_app_says_whose_lines_they_are(
    modal_server: Modal, client: Any, app: Any, create: Any
) -> None:
    begin = time.time()
    ids = [create("sh", "-c", f"echo {number}; echo no >&2", name=f"s-{number}") for number in range(2)]
    for number in range(2):
        modal_server.wait_over(f"s-{number}")
    entries = private.entries(client, app.app_id, begin - 5, time.time() + 1)
    for number, one in enumerate(ids):
        task = private.task_of(client, one)
        own = [entry for entry in entries if entry.sandbox_id == one or entry.task_id == task]
        assert sorted((entry.stream, entry.text) for entry in own) == [(1, f"{number}\n"), (2, "no\n")]


def test_the_end_of_a_log(modal_server: Modal, client: Any, app: Any, create: Any) -> None:
    one = create("sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; done", name="many")
    create("echo", "other", name="other")
    for name in ("many", "other"):
        modal_server.wait_over(name)
    task = private.task_of(client, one)
    last = private.last_entries(client, app.app_id, one, task, 2)
    assert [entry.text for entry in last] == ["5\n", "6\n"]
