"""A failed step fails its task as if it had run there: with its own exception, and a way to what happened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.processes import children_of

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "failures.py")


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        ("builtin", "ValueError", "the bottom"),
        ("with_cause", "KeyError", "'wrapped'"),
        ("own", "OwnError", "(7, 'because')"),
        ("beside", "TooSmallError", "-1 is too small"),
        ("of_a_library", "JSONDecodeError", "Expecting property name"),
        ("foreign", "ForeignError", "holds a lock"),
        ("kept_retry", "ValueError", "my own fault"),
        ("recursion", "RecursionError", "maximum recursion depth exceeded"),
        ("missing_module", "ModuleNotFoundError", "No module named 'no_such_module'"),
        ("fail", "AirflowFailException", "never again"),
    ],
)
def test_the_step_s_exception_is_raised(run, task, kind, text):
    error = run.error(task)
    assert (error["type"], text in error["text"]) == (kind, True), error


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        (
            "builtin",
            ["last lines of the step:", "ValueError: the bottom"],
        ),
        ("own", ["failures.OwnError: (7, 'because')", "why: user_error"]),
        ("beside", ["failures_beside.TooSmallError: -1 is too small"]),
        ("foreign", ["why: user_error"]),
    ],
)
def test_the_cause_says_more(run, task, texts):
    cause = run.error(task)["cause"]
    assert cause["type"] == "StepFailedError"
    assert [text for text in texts if text not in cause["text"]] == [], cause["text"]


@pytest.mark.parametrize("task", ["builtin", "own"])
def test_the_task_s_log_shows_it_as_well(run, task):
    """Airflow prints the frames of its own process and the name of the exception, which say too little."""
    log = run.log(task)
    assert "why: user_error" in log
    assert "where: local job s-" in log
    assert "last lines of the step:" in log.partition("why: user_error")[2]
    assert log.count("Traceback (most recent call last):") == 2  # the step's, and Airflow's own


def test_a_missing_package_has_advice(run):
    assert "requirements=[...] installs it in the step" in run.error("missing_module")["cause"]["text"]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("silent", "The step raised SilentError: <SilentError, whose __str__ raises RuntimeError>"),
        ("group", "two (2 sub-exceptions)"),
        ("system_exit", "The step called sys.exit(3)"),
        ("system_exit", "why: user_error, exit code 3"),
        ("system_exit_with_text", "The step called sys.exit: the reason"),
        ("interrupt", "The step was interrupted"),
        ("hard_exit", "The step's process ended with exit code 3 before the step returned"),
        ("hard_exit", "last words"),
        ("abort", "The step's process was killed by SIGABRT"),
        ("killed", "The step's process was killed by SIGKILL"),
        ("returns_a_lock", "The step returned a value of type dict that cannot be pickled"),
        ("returns_a_generator", "The step returned a value of type generator that cannot be pickled"),
        ("returns_a_generator", "return list(...) of it"),
        ("no_dict", "multiple_outputs is set, but the step returned list, not a dict"),
        ("too_long", "timeout"),
        ("too_long", "started"),
    ],
)
def test_a_failure_says_what_happened(run, task, text):
    error = run.error(task)
    told = error["text"] + str(error["cause"])
    assert text in told


def test_a_step_can_skip_itself(run):
    run.assert_state("skip", "skipped")
    run.assert_state("skip_without_airflow", "skipped")
    assert "nothing to do" in run.log("skip")


def test_some_failures_are_final(run):
    """``AirflowFailException`` spends no retry."""
    assert run.tries("fail") == 1


def test_rude_steps_still_return_their_value(run):
    for task, value in {"closes_stdout": "closed", "prints_strange_things": "printed"}.items():
        run.assert_state(task)
        assert run.value(task) == value
    assert "no line end" in run.log("prints_strange_things")


def test_children_do_not_outlive_their_step(run):
    run.assert_state("leaves_children")
    group = run.value("leaves_children")
    assert children_of(group) == []
    assert not os.path.exists(f"/proc/{group}")


def test_long_messages_are_cut(run):
    error = run.error("long_message")
    assert error["type"] == "ValueError"
    assert len(error["text"]) < 20_000
    assert len(run.records["long_message"]) < 64_000
