"""The helpers and checks that a hook inherits from its base class."""

from __future__ import annotations

import pytest

from airflow_stepop.core.stored_json import TEXT
from airflow_stepop.exceptions import IntegrityError, StepConfigError, WrongHostError
from airflow_stepop.hooks import base
from airflow_stepop.hooks.base import ApiError, BackendSettings, StepHook, Trouble
from airflow_stepop.job import JobHandle, StepSpec
from tests.support.memory_backend import MemoryHook


class Settings(BackendSettings):
    nice: int = 0


class Hook(MemoryHook):
    settings_model = Settings
    default_conn_id = "memory_default"


def spec(**fields):
    return StepSpec("s-x", "abc", {}, **fields)


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("sumbit", "submit"), ("cancle", "cancel"), ("is_transent", "is_transient"), ("logs_", "logs"),
        ("fresh_state", "fresh_status"), ("inline_limits", "inline_limit"), ("changed_job", "changed_jobs"),
        ("preserve_outcomes", "preserve_outcome"), ("poll_interval", "poll_interval_s"),
        ("apierror", "api_error"),
    ],
)  # fmt: skip
def test_a_misspelt_verb_is_refused(name, closest):
    with pytest.raises(TypeError, match=f"did you mean '{closest}'"):
        type("Misspelt", (StepHook,), {name: None})


@pytest.mark.parametrize(
    "name",
    ["cluster", "folder", "client", "connect", "region", "job", "handle", "service", "system", "host",
     "_sumbit", "conn_type", "default_conn_name", "hook_name", "get_conn", "render", "session", "volume"],
)  # fmt: skip
def test_a_helper_of_the_backend_is_accepted(name):
    type("Fine", (StepHook,), {name: None})


def test_settings_are_those_of_the_backend():
    hook = Hook()
    assert hook.settings_of(spec()) == Settings()
    assert hook.settings_of(spec(settings={"nice": 3})) == Settings(nice=3)
    assert hook.settings_of(spec(settings=Settings(nice=3), is_overridden=True)) == Settings(nice=3)
    assert hook.settings_of(spec(settings={"image_of_another": 1}, is_overridden=True)) == Settings()
    with pytest.raises(StepConfigError, match="did you mean 'nice'"):
        hook.settings_of(spec(settings={"nise": 3}))


def test_the_default_connection_counts_if_it_is_there(monkeypatch):
    assert Hook().used_conn_id is None
    assert Hook().connection is None
    monkeypatch.setenv("AIRFLOW_CONN_MEMORY_DEFAULT", '{"conn_type": "generic"}')
    assert Hook().used_conn_id == "memory_default"
    assert Hook().connection.conn_type == "generic"
    assert MemoryHook().used_conn_id is None


def test_the_detail_of_a_handle_is_checked():
    def detail(**fields):
        return Hook().handle_detail(JobHandle("memory", None, "here", "x", "x", fields), {"region": TEXT})

    assert detail(region="eu", later="more") == {"region": "eu"}
    for damaged in ({}, {"region": 1}):
        with pytest.raises(IntegrityError, match="the handle of a memory job has"):
            detail(**damaged)


def test_a_job_of_another_scope_is_elsewhere():
    handle = JobHandle("memory", None, "far", "x", "x")
    Hook().check_scope(handle, "far")
    with pytest.raises(
        WrongHostError, match="memory job x was submitted to far, and the connection now points to near"
    ):
        Hook().check_scope(handle, "near")


def test_what_is_transient_follows_from_the_kind_of_the_error():
    class Answering(Hook):
        def api_error(self, error):
            return ApiError(Trouble.TRANSIENT if isinstance(error, OSError) else Trouble.DENIED, str(error))

    assert Answering().is_transient(OSError())
    assert not Answering().is_transient(ValueError())
    assert not Hook().is_transient(OSError())


def test_every_name_of_the_stable_door_exists():
    assert all(getattr(base, name) for name in base.__all__)
