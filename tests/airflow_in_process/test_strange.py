"""Cases of the bad input corpus that need all of Airflow: a DAG runs, and each task says what it came to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    connection = json.dumps({"conn_type": "generic", "extra": "{backend: kubernetes}"})
    env = {"AIRFLOW_CONN_BROKEN_EXTRA": connection}
    return airflow_process.run(Path(__file__).parent / "dags" / "strange.py", env=env)


def test_an_argument_of_10_000_characters(run):
    assert run.value("length") == 10_000


def test_a_function_whose_source_is_gone(run):
    assert run.value("gone") == 42


def test_a_message_with_half_a_character_is_recorded_and_shown(run):
    """Airflow's own messages could not carry it."""
    error = run.error("half_a_character")
    assert error["text"] == "no such file: caf\\udce9.csv, \\ud800"
    assert "half_a_character" in run.records


def test_a_message_of_100_megabytes_is_cut(run):
    error = run.error("many_lines")
    assert error["type"] == "ValueError"
    assert len(error["text"]) < 20_000
    assert len(run.records["many_lines"]) < 60_000


def test_a_class_that_is_not_here_is_named(run):
    run.assert_state("of_a_module_that_is_only_there")
    error = run.error("reads")
    assert error["type"] == "ResultNotLoadedError"
    assert "a result of the step 'of_a_module_that_is_only_there'" in error["text"]
    assert (
        "ModuleNotFoundError: No module named 'only_there'. The module 'only_there' is missing"
        in error["text"]
    )
    assert error["cause"]["type"] == "ModuleNotFoundError"


def test_a_step_that_is_mapped_over_nothing_is_skipped(run):
    run.assert_state("nothing")
    run.assert_state("mapped", "skipped")


def test_names_that_sanitise_to_the_same_word(run):
    """Each has its own results."""
    places = {path for task in ("a_b", "a-b") for path in [run.value(task)["__data__"]["base_uri"]]}
    assert len(places) == 2


def test_a_connection_whose_extra_is_no_json(run):
    """Airflow takes it for an empty one; the step does not run on another backend than was asked for."""
    error = run.error("broken_extra")
    assert "the extra of the connection 'broken_extra' is not a JSON object" in error["text"]
