"""Secrets come out of Airflow's connections and variables, reach the step, and go nowhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.secrets_service import Service

pytestmark = [pytest.mark.timeout(900)]

PASSWORD, VARIABLE, KEY, NUMBER = "pa55w0rd-of-tests", "var1able-of-tests", "k3y-of-tests", "0012345"
CLOUD = "in-the-cl0ud-of-tests"  # in AWS Secrets Manager
ENV = {
    "AIRFLOW_CONN_HIDDEN_CONN": json.dumps(
        {"conn_type": "generic", "password": PASSWORD, "extra": {"key": KEY}}
    ),
    "AIRFLOW_CONN_HIDDEN_EMPTY": json.dumps({"conn_type": "generic", "host": "h"}),
    "AIRFLOW_CONN_HIDDEN_NUMBER": json.dumps({"conn_type": "generic", "password": NUMBER}),
    "AIRFLOW_VAR_HIDDEN_VARIABLE": VARIABLE,
}
DAG_FILE = Path(__file__).parent / "dags" / "hidden.py"


def digest(value):
    return hashlib.sha256(value.encode()).hexdigest()


@pytest.fixture(scope="module")
def run(airflow_process):
    service = Service()
    service.answers = [(200, {"SecretString": json.dumps({"key": CLOUD})})]
    try:
        return airflow_process.run(DAG_FILE, env={**ENV, **service.environment})
    finally:
        service.close()


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("function", PASSWORD),
        ("variable", VARIABLE),
        ("together", f"x-{PASSWORD}"),
        ("extra", KEY),
        ("reference", CLOUD),
        ("mapped[0]", PASSWORD),
        ("mapped[1]", PASSWORD),
    ],
)
def test_a_function_gets_them(run, task, value):
    run.assert_state(task)
    assert run.value(task) == digest(value)


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("command", PASSWORD),
        ("mapped_command[0]", PASSWORD),
        ("mapped_secrets[0]", PASSWORD),
        ("mapped_secrets[1]", VARIABLE),
    ],
)
def test_a_command_gets_them(run, task, value):
    run.assert_state(task)
    assert run.value(task)["sum.json"] == digest(value)


def test_text_stays_text_where_templates_are_native(airflow_process):
    run = airflow_process.run(DAG_FILE, "hidden_native", env=ENV)
    run.assert_state("function")
    assert run.value("function") == digest(NUMBER)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("no_connection", "'{{ conn.hidden_nowhere.password }}' raised AirflowNotFoundException"),
        ("no_variable", "'{{ var.value.hidden_nowhere }}' raised AirflowRuntimeError"),
        ("no_password", "a part of '{{ conn.hidden_empty.password }}' is None"),
        ("empty", "'{{ conn.hidden_conn.password[:0] }}' is empty"),
        ("no_such_field", "raised UndefinedError"),
        ("not_a_template", "raised TemplateSyntaxError"),
    ],
)
def test_what_is_not_set_is_an_error_that_names_the_secret(run, task, text):
    error = run.error(task)
    assert error["type"] == "StepConfigError"
    assert f"the secret 'TOKEN' has no value: {text}" in error["text"] or text in error["text"]
    assert PASSWORD not in error["traceback"]


def test_a_failure_does_not_tell_them(run):
    error = run.error("failing")
    assert (error["type"], error["text"].split("\n")[0]) == ("PermissionError", "no access with ***")
    assert "no access with ***" in run.log("failing")


def test_nothing_that_is_kept_has_a_value_in_it(run, airflow_process):
    """Log, database, jobs, store: everything that the tasks have left."""
    assert "token: ***" in run.log("function")
    for value in (PASSWORD, VARIABLE, KEY, CLOUD):
        for path in [run.log_file, *airflow_process.home.rglob("*")]:
            if path.is_file():
                assert value.encode() not in path.read_bytes(), path
        assert value not in json.dumps(run.answer)
