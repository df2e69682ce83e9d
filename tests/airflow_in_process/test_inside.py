"""A step logs as a task does, and may use modules that import Airflow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    env = {"AIRFLOW_CONN_HIDDEN": "postgres://login:a-long-password@host/db"}
    return airflow_process.run(Path(__file__).parent / "dags" / "inside.py", env=env)


def levels(log, text):
    """Return the level that Airflow shows for each line with this text."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    return re.findall(rf"\[(\w+) *\] [^\n]*{re.escape(text)}", plain)


TEXTS = {
    "of the root logger": "info",
    "of the task's logger": "warning",
    "of a shared module: info": "info",
    "of a shared module: warning": "warning",
    "of a shared module: error": "error",
    "of a shared module: critical": "critical",
    "careful": "warning",
    "with a traceback": "error",
}


@pytest.mark.parametrize("way", ["task", "waiting", "deferred"])
def test_records_have_their_level(run, way):
    """As in a task, each record is there once, with its level."""
    run.assert_state(f"logs_{way}")
    log = run.log(f"logs_{way}")
    for text, level in TEXTS.items():
        assert set(levels(log, text)) == {level}, (text, log)


@pytest.mark.parametrize("way", ["waiting", "deferred"])
def test_what_else_the_log_of_a_step_shows(run, way):
    """A DEBUG record that the step wants is not lost. The mark before a level is not shown."""
    log = run.log(f"logs_{way}")
    assert levels(log, "printed") == ["info"]
    assert levels(log, "DEBUG:root: of the lowest level") == ["info"]
    assert levels(log, "ERROR:root: ValueError: invalid literal") == ["error"]
    assert levels(log, "WARNING:inside_shared: of a shared module") == ["warning"]
    assert "\x1f" not in log
    assert "␟" not in log


def test_a_variable_of_airflow_is_refused(run):
    """The step is not given the default instead."""
    text = run.error("reads")["cause"]["text"]
    assert "A step cannot use Airflow's Variable 'threshold'" in text
    assert "'{{ var.value.threshold }}'" in text
    assert "AIRFLOW_VAR_THRESHOLD with env= or secrets=" in text


def test_a_connection_of_airflow_is_refused(run):
    text = run.error("no_connection")["cause"]["text"]
    assert "A step cannot use Airflow's Connection 'db'" in text


def test_what_the_step_was_given_is_read(run):
    run.assert_state("given")
    assert run.value("given") == "2"
    run.assert_state("secret")
    assert run.value("secret") == len("a-long-password")


def test_the_home_of_airflow(run):
    run.assert_state("home")
    home, work, module = run.value("home")
    assert (home, module) == (f"{work}/.airflow", "inside_shared")
