"""What can be sent to a step arrives there as it was; what cannot is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "calls.py")


def test_functions_bring_what_they_refer_to(run):
    """Globals, helpers, classes, recursion, lambdas; modules, packages, namespace packages, late imports."""
    run.assert_state("globals_and_helpers")
    *made, file = run.value("globals_and_helpers")
    assert made == [6, 1.5, [3, 2, 1], 8, "twig", "deep", "late", 4]
    assert "/stepop-" in file, "from the code archive"


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("parameters_few", [1, 2, [], 3, 4, {}]),
        ("parameters_all", [1, 20, [30, 40], 50, 60, {"e": 70, "f": None}]),
        ("coroutine", 2),
        ("closure", 6),
        ("a_lambda", 7),
        ("by_reference", 6),
        ("by_reference_in_a_package", ["twig", "twig"]),
        ("functions_as_arguments", [6, 2, 3.0]),
        ("environment", ["4", "42", {"AIRFLOW_HOME": True}]),  # a folder that is the step's own
    ],
)
def test_every_kind_of_call(run, task, value):
    run.assert_state(task)
    assert run.value(task) == value


def test_context_values_come_as_plain_data(run):
    run.assert_state("portable_context")
    ds, params, run_id, ts_nodash, given = run.value("portable_context")
    assert (params, run_id, given) == ({"depth": 4, "name": "x"}, run.answer["run_id"], "default")
    assert ts_nodash.startswith(ds.replace("-", ""))


def test_times_of_the_context_are_what_they_are_in_an_ordinary_task(run):
    run.assert_state("times_of_a_step")
    found = run.value("times_of_a_step")
    assert found == run.value("times_of_a_task")
    assert found[0] == "pendulum.datetime.DateTime UTC"


def test_a_time_of_the_context_may_be_returned(run):
    run.assert_state("takes_a_time")
    assert run.value("takes_a_time") is True


def test_lazy_values_of_the_context_are_none_in_a_first_run(run):
    run.assert_state("first_run")
    assert run.value("first_run") == [None] * 4


@pytest.mark.parametrize("task", ["promises_a_dict", "promises_a_mapping", "says_multiple_outputs"])
def test_no_result_is_no_wrong_result(run, task):
    run.assert_state(task)
    assert "return_value" not in run.xcoms.get(task, {})


def test_a_promised_dict_is_split(run):
    assert run.value("keeps_its_promise") == {"a": 1}
    assert run.xcoms["keeps_its_promise"]["a"] == 1


def test_included_files_are_there(run):
    run.assert_state("included")
    assert set(run.value("included")) >= {"calls_data", "calls_sql"}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("a_generator", "data (a generator) cannot be sent to the step"),
        ("a_generator", "Pass list(...) of it"),
        ("an_open_file", "data (a _io.TextIOWrapper) cannot be sent to the step"),
        ("an_open_file", "Pass the file's contents, or its path when the step can reach it"),
        ("a_lock", "data (a _thread.lock) cannot be sent to the step"),
        ("a_lock", "Create the lock inside the step"),
        ("a_socket_in_a_dict", "data (a dict) cannot be sent to the step: cannot pickle 'socket' object"),
        ("a_thread", "data (a threading.Thread) cannot be sent to the step"),
        (
            "an_output_in_an_object",
            "it contains the output of the task ordinary in a place where Airflow does not look",
        ),
        (
            "refers_to_a_lock",
            "the function refers_to_a_lock cannot be sent: cannot pickle '_thread.lock' object",
        ),
        ("refers_to_a_lock", ": refers_to_a_lock -> lock (_thread.lock). Create it inside the step"),
        ("wants_ti", "'ti' exists only inside Airflow and cannot be sent to a step"),
        ("wants_dag_run", "'dag_run' exists only inside Airflow"),
        ("wants_task", "'task' exists only inside Airflow"),
        ("wants_dag", "'dag' exists only inside Airflow"),
        ("wants_task_instance", "'task_instance' exists only inside Airflow"),
        ("wants_macros", "'macros' exists only inside Airflow"),
        ("wants_conn", "'conn' exists only inside Airflow"),
        ("wants_var", "'var' exists only inside Airflow"),
        ("wants_outlet_events", "'outlet_events' exists only inside Airflow"),
        ("included_missing", "include='calls_date' matches no file below"),
        ("included_outside", "include='../secrets' leads out of the project"),
    ],
)
def test_what_cannot_be_sent_is_named(run, task, text):
    error = run.error(task)
    assert error["type"] == "PayloadError"
    assert text in error["text"]
