"""Defaults from a connection, in Airflow: what counts, what is refused, and what an edit does not do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES

pytestmark = pytest.mark.timeout(900)

DAG_FILE = Path(__file__).parent / "dags" / "connections.py"


def conn(stepop, conn_type="generic", **fields):
    return json.dumps({"conn_type": conn_type, **fields, "extra": {"stepop": stepop}})


def connections(folder, **changes):
    here = {
        "backend": "local",
        "env": {"FROM": "connection", "LEVEL": "info", "ONLY": "here"},
        "settings": {"grace_period_s": 3},
        "resource_settings": {"gpu_type": "A100", "memory": "512MiB"},
        "store": f"file://{folder}/of_connection",
        "timeout": 120,
        "keep": "always",
        "deferrable": True,
        **changes,
    }
    found = {
        "here": conn(here, password="hunter2"),
        "misspelt": conn({"backend": "local", "imagee": "x"}),
        "other_backend": conn({"backend": "kubernetes"}),
        "with_image": conn({"backend": "local", "image": "python:3"}),
        "with_endpoints": conn({"backend": "local", "endpoints": {"api": "http://localhost"}}),
        "bad_store": conn({"backend": "local", "store": "ftp://somewhere/else"}),
        "bad_setting": conn({"backend": "local", "settings": {"pyhton": "x"}}),
    }
    return {f"AIRFLOW_CONN_{name.upper()}": text for name, text in found.items()}


def stores(folder):
    return {
        "AIRFLOW__STEPOP__EXTRA_STORES": f"file://{folder}/own",
        "STEPOP_TEST_OWN_STORE": f"file://{folder}/own",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def run(airflow_process, folder):
    return airflow_process.run(DAG_FILE, env={**connections(folder), **stores(folder)})


def test_the_connection_gives_what_the_task_leaves_out(run):
    run.assert_state("told")
    assert run.value("told") == {"FROM": "default_args", "LEVEL": "info", "ONLY": "here"}


def test_the_task_wins_key_by_key(run):
    assert run.value("own") == {"FROM": "task", "LEVEL": "debug", "ONLY": "here"}


def test_a_secret_of_the_task_hides_what_the_connection_gives(run):
    run.assert_state("hidden")
    assert run.value("hidden")["LEVEL"] != "info"
    assert run.value("hidden")["ONLY"] == "here"


def test_commands_and_mapped_steps_have_them_too(run):
    run.assert_state("command")
    run.assert_state("commands[1]")


def test_on_oom_may_begin_with_the_memory_of_the_connection(run):
    run.assert_state("more_memory")


def test_results_go_to_the_store_of_the_connection(run, folder):
    assert "/of_connection/" in json.dumps(run.value("large"))
    assert "/own/" in json.dumps(run.value("own_store"))
    assert f"Store: file://{folder}/of_connection, from the connection 'here'" in run.log("large")
    assert "Store: " not in run.log("own_store")


def test_a_result_in_the_store_of_a_connection_is_read(run):
    """By an ordinary task, and by a step without the connection. No setting names the store."""
    assert run.value("length") == 200_000
    assert run.value("first") == "x"


def test_the_record_has_what_the_job_was_submitted_with(run):
    record = json.loads(run.records["told"])
    assert record["keep"] == "always"
    assert record["asked"] == {
        "timeout_s": 120.0,
        "start_timeout_s": None,
        "deferrable": True,
        "resources": {"memory": "512MiB"},
    }
    assert "hunter2" not in run.records["told"]
    assert "info" not in run.records["told"]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            "misspelt",
            "the connection 'misspelt': \"stepop\" in its extra: it has 'imagee', which is no default",
        ),
        ("contradicts", "backend='local', and its connection 'other_backend' is for backend='kubernetes'"),
        ("with_image", "The connection 'with_image' gives image; correct \"stepop\" in its extra"),
        (
            "with_endpoints",
            "the connection 'with_endpoints': \"stepop\" in its extra: endpoints: backend 'local'",
        ),
        (
            "bad_store",
            "the connection 'bad_store': \"stepop\" in its extra: store 'ftp://somewhere/else': unknown",
        ),
        (
            "bad_setting",
            "the connection 'bad_setting': \"stepop\" in its extra: settings: backend 'local' has no",
        ),
        ("completed", "gpu_type='A100' needs gpu_count"),
    ],
)
def test_a_mistake_is_named_with_its_connection_when_the_step_runs(run, task, text):
    assert text in run.error(task)["text"]


def test_an_edit_of_the_connection_is_no_other_call(run, airflow_process, folder):
    """A job that is under way is found by a retry after it."""
    changes = {"env": {"LEVEL": "other"}, "timeout": 60, "image": None, "keep": "never"}
    env = {**connections(folder, **changes), **stores(folder)}
    again = airflow_process.run(DAG_FILE, env=env)
    assert again.value("told")["LEVEL"] == "other"
    keys = [json.loads(one.records["told"])["call"]["key"] for one in (run, again)]
    assert keys[0] == keys[1]


def test_under_an_override_nothing_of_the_connection_counts(airflow_process, folder):
    """It need not even exist; the warning says what is not used."""
    env = {**stores(folder), "AIRFLOW__STEPOP__BACKEND_OVERRIDE": "local"}
    found = airflow_process.run(DAG_FILE, env=env)
    found.assert_state("told")
    assert found.value("told") == {"FROM": "default_args", "LEVEL": None, "ONLY": None}
    assert "its connection 'here' and the defaults in it are not used" in found.log("told")
    found.assert_state("with_image")
    found.assert_state("more_memory")


def test_the_example_gets_what_its_documentation_adds(airflow_process):
    """The connection is the one of the command in ``dags_examples/connection_defaults.py``."""
    path = EXAMPLES / "connection_defaults.py"
    said = re.search(r"--conn-json '(.*?)'", path.read_text(), re.DOTALL)
    found = airflow_process.run(path, env={"AIRFLOW_CONN_TRAINING": said.group(1)})
    found.assert_state("report")
    assert found.value("report") == {"usual": 60, "longer": 200}
