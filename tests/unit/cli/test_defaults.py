"""The defaults of a connection, in ``airflow stepop describe CONN`` and ``check CONN``."""

from __future__ import annotations

import json

import pytest

GIVEN = {
    "settings": {"gracePeriodS": 3},
    "resource_settings": {"memory": "64 MiB"},
    "env": {"TOKEN": "hunter2"},
    "timeout": 120,
    "keep": "never",
}


@pytest.fixture(autouse=True)
def environment(home, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "tests")


@pytest.fixture
def connect(monkeypatch):
    def make(conn_id="here", conn_type="generic", **stepop):
        extra = {"stepop": {"backend": "local", **stepop}}
        text = json.dumps({"conn_type": conn_type, "extra": extra})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", text)

    return make


def test_describe_shows_every_option_and_where_it_comes_from(stepop, connect, tmp_path):
    connect(**GIVEN)
    said = stepop("describe", "here", "-o", "json")
    assert said.code == 0, said.err
    assert said.data["connection"] == "here"
    assert said.data["backend"] == "local"
    rows = {row["option"]: (row["value"], row["from"]) for row in said.data["defaults"]}
    assert rows == {
        "backend": ("local", "the connection"),
        "image": (None, "the backend local"),
        "store": (f"file://{tmp_path}/store", "[stepop] store"),
        "timeout": (120.0, "the connection"),
        "start_timeout": (None, "airflow-stepop: no limit"),
        "keep": ("never", "the connection"),
        "deferrable": (False, "the backend local"),
        "settings.grace_period_s": (3, "the connection"),
        "resource_settings.memory": ("64MiB", "the connection"),
        "env.TOKEN": ("(not shown)", "the connection"),
    }
    assert "hunter2" not in said.out


def test_describe_as_a_table(stepop, connect):
    connect(**GIVEN)
    said = stepop("describe", "here")
    assert "Defaults of steps with conn_id='here'" in said.out
    assert "settings.grace_period_s" in said.out
    assert "log_limit" in said.out  # the table of the backend's settings follows
    assert "hunter2" not in said.out
    assert "Defaults of steps" not in stepop("describe", "local").out


def test_describe_says_that_an_override_is_set(stepop, connect, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__BACKEND_OVERRIDE", "local")
    connect(**GIVEN)
    assert (
        "backend_override is 'local': steps do not use this connection now" in stepop("describe", "here").err
    )


def test_describe_of_an_unknown_connection(stepop):
    said = stepop("describe", "nowhere")
    assert said.code == 1
    assert "there is no backend 'nowhere'" in said.err
    assert "There is no connection of this id, either" in said.err


MISTAKES = {
    "unknown key": ({"imagee": "x"}, "it has 'imagee', which is no default; did you mean 'image'?"),
    "setting": (
        {"settings": {"pyhton": "x"}},
        "settings: backend 'local' has no setting 'pyhton'; did you",
    ),
    "value": ({"settings": {"grace_period_s": "soon"}}, "grace_period_s: Input should be a valid number"),
    "store": ({"store": "ftp://somewhere"}, "store 'ftp://somewhere': unknown scheme 'ftp'"),
    "image": ({"image": "python:3"}, "leave image out"),
    "endpoints": ({"endpoints": {"api": "x"}}, "endpoints: backend 'local' takes none; remove 'api'"),
    "too much": ({"resource_settings": {"memory": "1PB"}}, "memory='1PB'"),
}


@pytest.mark.parametrize(("stepop_key", "text"), MISTAKES.values(), ids=MISTAKES)
def test_check_names_a_mistake_with_the_connection(stepop, connect, stepop_key, text):
    connect(**stepop_key)
    said = stepop("check", "here", "-o", "json")
    assert said.code == 1
    (row,) = [row for row in said.data if row["what"] == "defaults"]
    assert row["ok"] is False
    assert row["found"].startswith("the connection 'here': \"stepop\" in its extra: ")
    assert text in row["found"]
    assert row["what_to_do"]


def test_check_shows_the_defaults_of_steps(stepop, connect):
    connect(**GIVEN)
    said = stepop("check", "here", "-o", "json")
    assert said.code == 0, said.out
    (row,) = [row for row in said.data if row["what"] == "defaults"]
    assert row["found"].endswith(
        "get settings.gracePeriodS, resource_settings.memory, env.TOKEN, timeout, keep from it"
    )
    assert "hunter2" not in said.out


def test_a_step_of_check_runs_with_the_defaults(stepop, connect, monkeypatch):
    """The step gets the environment, settings and resources of the connection, as a task would."""
    from airflow_stepop.hooks.local import LocalStepHook

    seen = []
    submit = LocalStepHook.submit
    monkeypatch.setattr(
        LocalStepHook, "submit", lambda self, spec, payload: seen.append(spec) or submit(self, spec, payload)
    )
    connect(**GIVEN)
    said = stepop("check", "here", "--run", "-o", "json")
    assert said.code == 0, said.out
    (spec,) = seen
    assert spec.env["TOKEN"] == "hunter2"
    assert spec.settings.grace_period_s == 3
    assert spec.resources.memory == "64MiB"


def test_a_mistake_in_a_connection_does_not_hide_the_jobs(stepop, connect, ran, monkeypatch):
    monkeypatch.delenv("AIRFLOW__STEPOP__DEPLOYMENT")
    connect(imagee="x")
    assert len(stepop("jobs", "--dag-id", "upkeep", "-o", "json").data) == 2
