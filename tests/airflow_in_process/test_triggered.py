"""Whoever triggers a DAG chooses what its templates take from ``dag_run.conf``, within what is configured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]

PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def run(airflow_process, folder):
    def connection(**stepop):
        return json.dumps({"conn_type": "generic", "password": PASSWORD, "extra": {"stepop": stepop}})

    env = {
        "AIRFLOW__STEPOP__EXTRA_STORES": f"file://{folder}/extra",
        "AIRFLOW_CONN_TEAM": connection(backend="local", env={"TEAM": "blue"}),
        "AIRFLOW_CONN_CLUSTER": connection(backend="kubernetes"),
        "AIRFLOW_CONN_NOT_USED_HERE": connection(backend="local", store=f"file://{folder}/of_connection"),
    }
    conf = {
        "backend": "local",
        "other_backend": "kubernetes/../../local",
        "connection": "team",
        "for_another": "cluster",
        "text": "{{ conn.team.password }}",
        "store": f"file://{folder}/extra",
        "elsewhere": f"file://{folder}/elsewhere",
        "of_connection": f"file://{folder}/of_connection",
    }
    return airflow_process.run(Path(__file__).parent / "dags" / "triggered.py", env=env, conf=conf)


def test_a_task_without_such_templates_is_not_theirs(run):
    run.assert_state("fixed")
    assert "TEAM" not in run.value("fixed")


def test_a_trigger_chooses_the_backend(run):
    """Also ``local``, which is the worker's own host. A text that is no backend is refused."""
    run.assert_state("backend")
    error = run.error("other_backend")
    assert error["type"] == "BackendNotFoundError"


def test_a_trigger_chooses_a_connection(run):
    """The step gets what its ``stepop`` gives, and not its password."""
    run.assert_state("connection")
    assert run.value("connection")["TEAM"] == "blue"
    assert PASSWORD not in json.dumps(run.value("connection"))
    assert PASSWORD not in run.records["connection"]


def test_a_connection_for_another_backend_is_refused(run):
    assert "its connection 'cluster' is for backend='kubernetes'" in run.error("for_another")["text"]


def test_a_trigger_chooses_among_the_configured_stores(run, folder):
    assert run.value("length") == 200_000
    assert list((folder / "extra").rglob("*.bin"))


@pytest.mark.parametrize("task", ["elsewhere", "of_connection"])
def test_every_other_store_is_refused(run, folder, task):
    """A store that a connection names is for the steps with this connection. Nothing is written."""
    error = run.error(task)
    assert error["type"] == "StepConfigError"
    assert "store" in error["text"]
    assert not (folder / task).exists()


def test_a_template_in_what_they_give_is_not_rendered(run):
    assert run.value("text")["TEXT"] == "{{ conn.team.password }}"
