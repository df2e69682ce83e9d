"""Commands read files and leave files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process, place):
    return airflow_process.run(Path(__file__).parent / "dags" / "commands.py", place=place)


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("json_input", {"a": [1, None]}),
        ("text_input", "grüße"),
        ("bytes_input", 2),
        ("big_input", 100_000),
        ("array_input", 15),
        ("table_input", 3),
        ("object_input", [1, 2]),
    ],
)
def test_inputs_of_every_kind_become_files(run, task, value):
    run.assert_state(task)
    assert run.value(task)["out.json"] == value


def test_outputs_become_values(run):
    """JSON as what it says, every other file as its bytes, however large."""
    for task in ("outputs", "check_outputs", "check_outputs_in_a_step", "again", "literal_input"):
        run.assert_state(task)
    assert run.xcoms["outputs"]["m.json"] == {"auc": 0.9}
    assert run.xcoms["again"]["n.json"] == 100_000
    assert len(run.results("outputs")) == 1


def test_commands_run_where_they_should(run):
    for task in ("nothing", "script", "executable", "workdir", "templated", "python_script"):
        run.assert_state(task)
    assert "return_value" not in run.xcoms["nothing"]
    assert run.xcoms["python_script"]["out.json"] == {"fitted": True}


def test_names_of_inputs_and_variables_are_rendered(run):
    run.assert_state("templated_names")
    told = run.value("templated_names")["out.json"]
    assert told == ["its VALUE", ["in-templated_names.txt", "sub/yes.txt"]]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("output_missing", "The command did not write model.bin; files it left: modle.bin"),
        ("exit_code", "The command 'sh' ended with exit code 7"),
        ("exit_code", "about to fail"),
        ("not_found", "The command 'no-such-program' was not found"),
        ("killed", "The command 'sh' was killed by SIGKILL"),
        ("climbing_output", "The output '../x' is not a path inside the step's folder"),
        ("climbing_input", "The input '../x' is not a path inside the step's folder"),
        ("same_names", "inputs has the name 'a.txt' twice, once from 'a.txt'"),
        ("climbing_workdir", "is not a path inside the step's folder"),
        ("bad_input", "x (a generator) cannot be sent to the step"),
        ("not_executable", "The command './commands_run.sh' may not be executed"),
    ],
)
def test_a_failed_command_says_why(run, task, text):
    assert text in run.error(task)["text"]
