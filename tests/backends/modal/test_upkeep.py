"""What ``airflow stepop check`` says, what ``gc`` finds in the Volume, and what a submit costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.paths import checkpoint_path, job_path
from airflow_stepop.testing import Step
from tests.support.modal import Modal, modal_connection
from tests.support.modal_steps import end_of


def test_everything_is_there(hook: ModalStepHook) -> None:
    found = list(hook.check())
    assert all(one.is_ok for one in found), found
    assert [one.subject for one in found] == ["token", "app", "volume", "image", "client"]
    assert "test-workspace" in found[0].message


def test_an_image_that_cannot_be_built(hook: ModalStepHook, modal_server: Modal) -> None:
    """The image of a step without ``image=`` is built, and nothing else fails with it."""
    modal_server.do("fault", kind="denied", rpc="ImageGetOrCreate", message="no builds in this workspace")
    (found,) = [one for one in hook.check() if not one.is_ok]
    assert (found.subject, found.message) == ("image", "no builds in this workspace")
    assert "build images" in found.fix


def test_an_environment_that_does_not_exist(
    modal_server: Modal, make_hook: Callable[[], ModalStepHook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MODAL_DEFAULT", modal_connection(environment="dev"))
    found = {one.subject: one.fix for one in make_hook().check() if not one.is_ok}
    assert found.keys() == {"app", "volume"}
    assert all("modal environment create dev" in fix for fix in found.values())


def test_an_app_that_cannot_be_made(hook: ModalStepHook, modal_server: Modal) -> None:
    """Then nothing can be said of the image, and all else is checked."""
    modal_server.do("fault", kind="denied", rpc="AppGetOrCreate")
    found = {one.subject: one.is_ok for one in hook.check()}
    assert found == {"token": True, "app": False, "volume": True, "client": True}


def test_a_token_that_is_not_known(hook: ModalStepHook, modal_server: Modal) -> None:
    """Nothing else is asked then."""
    modal_server.do("token", token_id="ak-test", secret=None)
    (found,) = hook.check()
    assert (found.is_ok, found.subject) == (False, "token")
    assert "modal token new" in found.fix


def test_a_version_that_lacks_a_private_part(hook: ModalStepHook, monkeypatch: pytest.MonkeyPatch) -> None:
    names = private.DOORS[private.LOGS]
    monkeypatch.setitem(private.DOORS, private.LOGS, (*names, "modal._logs:gone"))
    (found,) = [one for one in hook.check() if not one.is_ok]
    assert "modal._logs:gone" in found.message
    assert private.WITHOUT[private.LOGS] in found.message


def test_what_jobs_leave_in_the_volume(
    hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    one = step(["true"])
    handle = hook.submit(one.spec, one.payload)
    end_of(hook, handle)
    (found,) = hook.leftovers()
    assert found.path == job_path(one.spec.labels, one.spec.name)
    assert found.count > 3
    assert found.size > 10_000
    found.delete()
    found.delete()
    assert list(hook.leftovers()) == []


def test_checkpoints_of_a_task_that_never_succeeds(
    hook: ModalStepHook, step: Callable[..., Step], store: Store, modal_server: Modal
) -> None:
    """They stay when the job is deleted, and ``gc`` finds them. It makes no Volume."""
    assert list(hook.leftovers()) == []
    assert modal_server.report()["volumes"] == {}
    uri = store.uri("checkpoints/team/dag/run/task/-1/arguments")
    one = step(["sh", "-c", 'echo 7 > "$STEPOP_CHECKPOINT_DIR/epoch"; exit 3'], checkpoint_uri=uri)
    handle = hook.submit(one.spec, one.payload)
    end_of(hook, handle)
    hook.delete(handle)
    (found,) = hook.leftovers()
    assert (found.path, found.count) == (checkpoint_path(one.spec.labels), 1)
    found.delete()
    assert list(hook.leftovers()) == []


def test_the_requests_of_a_submit(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """The first one of a process also makes the Volume and the App."""
    submit()
    modal_server.do("forget_calls")
    submit()
    calls = modal_server.report()["calls"]
    assert sum(count for name, count in calls.items() if not name.startswith("Block")) <= 16, calls
