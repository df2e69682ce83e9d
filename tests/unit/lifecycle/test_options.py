"""The task's arguments over the defaults of its connection, and a job that outlives an edit of those."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import model_validator

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.settings import BackendSettings
from airflow_stepop.lifecycle.options import (
    NoTask,
    StepOptions,
    check_defaults,
    defaults_for,
    find_connection,
    max_resubmissions,
)
from airflow_stepop.resources import ResourceSettings
from tests.support.connections import connection_with
from tests.support.third_party import install_backend


class CloudSettings(BackendSettings):
    """Options of a cloud that needs to know where."""

    region: str
    size: int | None = None
    machine_type: str | None = None

    @model_validator(mode="after")
    def _check(self) -> CloudSettings:
        if (self.size or 0) > 10 and self.machine_type is None:
            raise ValueError("size above 10 needs a machine_type")
        return self


class CloudHook(LocalStepHook):
    """A backend of a service with addresses, and with a connection of its own."""

    backend = "cloud"
    settings_model = CloudSettings
    default_conn_id = "cloud_default"
    endpoint_names = ("api", "logs")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_backend(monkeypatch, tmp_path / "site", "cloud", f"{CloudHook.__module__}:CloudHook")


def options(stepop, backend="kubernetes", **task) -> StepOptions:
    return StepOptions(NoTask(**task), defaults_for(connection_with(stepop), backend))


# name of the option -> (its default in the connection, what the task says, both in the end)
ONE_BY_ONE = {
    "image": ({"image": "a"}, {"image": "b"}, ("a", "b")),
    "timeout_s": ({"timeout": 60}, {"timeout": timedelta(minutes=2)}, (60.0, 120.0)),
    "start_timeout_s": ({"start_timeout": 60}, {"start_timeout": 5}, (60.0, 5.0)),
    "keep": ({"keep": "always"}, {"keep": "never"}, ("always", "never")),
    "deferrable": ({"deferrable": True}, {"deferrable": False}, (True, False)),
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_the_task_replaces_what_the_connection_gives(name, monkeypatch):
    given, task, (of_connection, of_task) = ONE_BY_ONE[name]
    monkeypatch.setenv("AIRFLOW__STEPOP__TIMEOUT", "30")
    assert getattr(options(given), name) == of_connection
    assert getattr(options(given, **task), name) == of_task
    nothing = {"image": None, "timeout_s": 30, "start_timeout_s": None, "keep": "failed", "deferrable": None}
    assert getattr(options({}), name) == nothing[name]


def test_env_is_merged_name_by_name():
    found = options({"env": {"A": "1", "B": "2", "C": "3"}}, env={"B": 20}, secrets={"C": "{{ conn.c }}"})
    assert found.env == {"A": "1", "B": "20"}


def test_resources_are_merged_field_by_field():
    given = {"resource_settings": {"cpu_count": 2, "memory": "4GiB"}}
    assert options(given).resources == ResourceSettings(cpu_count=2, memory="4GiB")
    for task in (ResourceSettings(memory="8GiB"), {"memory": "8GiB"}):
        assert options(given, resource_settings=task).resources == ResourceSettings(
            cpu_count=2, memory="8GiB"
        )


@pytest.mark.parametrize(
    ("given", "task", "gpus"),
    [
        ({"gpu_type": "A100"}, {"gpu_count": 2}, (2, "A100")),
        ({"gpu_type": "A100"}, {}, (None, None)),
        ({"gpu_type": "A100", "gpu_count": 1}, {}, (1, "A100")),
        ({"gpu_type": "A100", "gpu_count": 1}, {"gpu_count": 0}, (0, None)),
        ({"gpu_count": 1}, {"gpu_type": "T4"}, (1, "T4")),
    ],
)
def test_a_type_of_gpu_counts_where_gpus_are_asked_for(given, task, gpus):
    found = options({"resource_settings": given}, resource_settings=task).resources
    assert (found.gpu_count, found.gpu_type) == gpus


def test_a_type_of_gpu_of_the_task_without_any():
    with pytest.raises(StepConfigError, match="gpu_type='T4' needs gpu_count"):
        _ = options({}, resource_settings={"gpu_type": "T4"}).resources


@pytest.mark.parametrize(
    "task", [{"namespace": "mine"}, KubernetesSettings(namespace="mine")], ids=["dict", "model"]
)
def test_settings_are_merged_key_by_key(task):
    given = {"settings": {"namespace": "theirs", "serviceAccountName": "robot", "labels": {"a": "b"}}}
    found = options(given, settings=task).settings("kubernetes")
    assert found.namespace == "mine"
    assert found.service_account_name == "robot"
    assert found.labels == {"a": "b"}
    assert options(given).settings("kubernetes").namespace == "theirs"


def test_settings_of_both_complete_each_other(cloud):
    given = {"settings": {"region": "here"}}
    assert options(given, "cloud", settings={"size": 3}).settings("cloud") == CloudSettings(
        region="here", size=3
    )
    with pytest.raises(StepConfigError, match=r"^settings of backend 'cloud': region: Field required"):
        options({}, "cloud", settings={"size": 3}).settings("cloud")


SETTINGS = {
    "unknown": (
        {"namespce": "x"},
        None,
        "the connection 'gpu': \"stepop\" in its extra: settings: backend 'kubernetes' has no setting "
        "'namespce'; did you mean 'namespace'?",
    ),
    "wrong": (
        {"spot": "maybe"},
        None,
        "the connection 'gpu': \"stepop\" in its extra: settings of backend 'k",
    ),
    "wrong in the task": ({"namespace": "x"}, {"spot": "maybe"}, "settings of backend 'kubernetes': spot: "),
    "twice": (
        {"hostIpc": True, "host_ipc": True},
        None,
        "the connection 'gpu': \"stepop\" in its extra: bac",
    ),
    "task of another kind": ({"namespace": "x"}, ["y"], "settings of 'kubernetes' must be a KubernetesSett"),
}


@pytest.mark.parametrize(("given", "task", "text"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_are_named_with_where_they_come_from(given, task, text):
    with pytest.raises(StepConfigError, match="^" + re.escape(text)):
        options({"settings": given}, settings=task).settings("kubernetes")


# -- the store


@pytest.mark.parametrize(
    ("given", "task", "expected_s"),
    [
        ({}, {}, 86400.0),
        ({}, {"settings": {"active_deadline_seconds": 60}}, 60.0),
        ({}, {"settings": {"activeDeadlineSeconds": 60}}, 60.0),
        ({}, {"settings": KubernetesSettings(active_deadline_seconds=60)}, 60.0),
        ({"timeout": 30}, {"settings": {"active_deadline_seconds": 60}}, 60.0),
        ({"settings": {"active_deadline_seconds": 60}}, {}, 60.0),
        ({"settings": {"active_deadline_seconds": 60}}, {"timeout": timedelta(seconds=30)}, 30.0),
        ({"timeout": 30}, {}, 30.0),
        ({"timeout": 30}, {"settings": {"namespace": "n"}}, 30.0),
        # these disagree, and the backend refuses the request
        ({}, {"timeout": 30, "settings": {"active_deadline_seconds": 60}}, 30.0),
        ({"timeout": 30, "settings": {"active_deadline_seconds": 60}}, {}, 30.0),
    ],
)
def test_a_setting_may_be_another_name_for_the_timeout(given, task, expected_s):
    """Whoever is nearer to the task wins; the deadline of the wait follows."""
    found = options(given, **task)
    settings = found.settings("kubernetes")
    assert found.timeout_with(settings) == expected_s
    is_task_timeout = task.get("timeout") is not None and "settings" not in task
    named = settings.active_deadline_seconds
    assert named is None if is_task_timeout else named in (None, 60)


def test_a_store_must_be_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/main")
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", f"file://{tmp_path}/more")
    assert options({}).store().url == f"file://{tmp_path}/main"
    assert options({"store": f"file://{tmp_path}/more"}).store().url == f"file://{tmp_path}/more"
    assert options({"store": "file:///no"}, store=f"{tmp_path}/main").store().url == f"file://{tmp_path}/main"
    with pytest.raises(StepConfigError, match=r"^store='file:///no' is not configured"):
        options({}, store="file:///no").store()


def test_a_store_of_the_connection_is_configured(tmp_path, monkeypatch):
    """No setting has to name it, too. A mistake in its address names the connection."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/main")
    found = options({"store": f"file://{tmp_path}/own"})
    assert (found.store().url, found.store_place) == (f"file://{tmp_path}/own", "the connection 'gpu'")
    assert options({"store": f"file://{tmp_path}/own"}, store=f"file://{tmp_path}/main").store_place == ""
    assert options({}).store_place == ""
    with pytest.raises(StepConfigError, match=r"^the connection 'gpu'.*unknown scheme 'ftp'"):
        options({"store": "ftp://no"}).store()


# -- the backend and its connection


def test_a_connection_for_another_backend():
    with pytest.raises(
        StepConfigError, match=r"backend='local', and its connection 'gpu' is for backend='ku"
    ):
        defaults_for(connection_with({"backend": "kubernetes"}), "local")


def test_endpoints_are_for_backends_that_take_them(cloud):
    given = connection_with({"endpoints": {"api": "http://localhost:1"}})
    assert defaults_for(given, "cloud").endpoints == {"api": "http://localhost:1"}
    assert CloudHook("gpu", given).endpoints == {"api": "http://localhost:1"}
    assert CloudHook().endpoints == {}
    with pytest.raises(StepConfigError, match=r"'gpu'.* endpoints: backend 'local' takes none; remove 'api'"):
        defaults_for(given, "local")
    with pytest.raises(StepConfigError, match=r"no endpoint 'apis'; did you mean 'api'\? \(valid: api, logs"):
        defaults_for(connection_with({"endpoints": {"apis": "x"}}), "cloud")


def test_the_default_connection_of_a_backend(cloud, monkeypatch):
    """A task that names none uses it for its credentials, so its defaults count as well."""
    assert find_connection(None, "cloud") is None
    assert find_connection(None, "local") is None
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD_DEFAULT", '{"conn_type": "generic"}')
    assert find_connection(None, "cloud").conn_id == "cloud_default"
    monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "generic"}')
    assert find_connection("mine", "cloud").conn_id == "mine"


def test_everything_is_checked_without_a_task(cloud):
    assert check_defaults(connection_with({"settings": {"size": 20}}), "cloud").settings == {"size": 20}
    with pytest.raises(StepConfigError, match=r"'gpu'.*size: Input should be a valid integer"):
        check_defaults(connection_with({"settings": {"size": "x"}}), "cloud")
    with pytest.raises(StepConfigError, match=r"'gpu'.*unknown scheme 'ftp'"):
        check_defaults(connection_with({"store": "ftp://no"}), "cloud")


def test_what_of_a_request_comes_from_the_connection():
    given = {
        "image": "a",
        "timeout": 60,
        "keep": "never",
        "env": {"A": "1"},
        "settings": {"namespace": "x", "spot": True},
        "resource_settings": {"memory": "1GiB", "cpu_count": 1},
    }
    task = {"timeout": 5, "settings": {"spot": False}, "resource_settings": {"memory": "2GiB"}}
    found = options(given, **task).from_connection()
    assert found == ["image", "settings.namespace", "resource_settings.cpu_count"]


# -- a job that is under way


def test_a_job_keeps_what_it_was_submitted_with(hook, new_try, state):
    """Whatever somebody writes into the connection meanwhile, and be it nonsense."""
    life = new_try()
    life.request.timeout_s, life.request.start_timeout_s = 50.0, 7.0
    handle = life.begin()
    again = new_try()
    forbid(again.request)
    assert again.begin() == handle
    deadlines = again.deadlines(None)
    assert deadlines.start_s == 7.0
    assert deadlines.run_s == 50.0 * 1.05 + 600.0
    assert again.record.asked == {
        "timeout_s": 50.0,
        "start_timeout_s": 7.0,
        "deferrable": None,
        "resources": {"cpu_count": 2, "memory": "4GiB"},
    }
    hook.end(handle.name, value={"result": {"plain": 1}})
    assert again.finish(handle, deadlines.reason(hook.status([handle])[handle], 0.0)).failure is None


def forbid(request) -> None:
    """Let every option that a connection may give be an error, as after a mistake in it."""

    def fail(self):
        raise StepConfigError("the connection is broken")

    names = ("keep", "deferrable", "timeout_s", "start_timeout_s", "resources", "location")
    broken = type("Broken", (type(request),), dict.fromkeys(names, property(fail)))
    for name in names:
        vars(request).pop(name, None)
    request.__class__ = broken


# -- resubmissions


def test_the_task_or_the_configuration_limits_resubmissions(monkeypatch):
    assert max_resubmissions(None) == 10
    monkeypatch.setenv("AIRFLOW__STEPOP__MAX_RESUBMISSIONS", "3")
    assert max_resubmissions(None) == 3
    assert max_resubmissions(0) == 0


@pytest.mark.parametrize("text", ["many", "-1", "1.5"])
def test_a_configured_limit_is_a_whole_number(monkeypatch, text):
    monkeypatch.setenv("AIRFLOW__STEPOP__MAX_RESUBMISSIONS", text)
    with pytest.raises(StepConfigError, match=r"\[stepop\] max_resubmissions must be 0, 1, 2, .*" + text):
        max_resubmissions(None)
