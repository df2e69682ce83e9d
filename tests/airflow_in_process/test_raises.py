"""A step that fails looks like a ``@task`` that fails: its exception, its exit code, one traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    file = Path(__file__).parent / "dags" / "raises.py"
    return airflow_process.run(file, env={"AIRFLOW__STEPOP__THREAD_GRACE": "0.2"})


@pytest.mark.parametrize(
    ("task", "found"),
    [
        (
            "missing_file",
            {
                "type": "FileNotFoundError",
                "text": "[Errno 2] No such file or directory: '/no/such/file'",
                "filename": "'/no/such/file'",
                "errno": "2",
            },
        ),
        (
            "bad_text",
            {
                "type": "UnicodeDecodeError",
                "text": "'utf-8' codec can't decode byte 0xff in position 2: invalid start byte",
                "object": r"b'ab\xff'",
                "start": "2",
            },
        ),
        ("bad_syntax", {"type": "SyntaxError", "text": "invalid syntax (x.py, line 1)", "lineno": "1"}),
        ("own", {"type": "ApiError", "text": "unavailable", "status": "503", "body": r"b'\x00\xff'"}),
        ("own_deferred", {"type": "ApiError", "text": "unavailable", "status": "503"}),
        ("chained", {"type": "KeyError", "text": "'wrapped'", "args": "('wrapped',)"}),
    ],
)
def test_a_callback_sees_the_whole_exception(run, task, found):
    run.assert_state(task, "failed")
    seen = json.loads((run.place.marks / f"raises-{task}.json").read_text())
    assert {name: seen.get(name) for name in found} == found


def test_an_exception_that_refuses_to_be_changed_is_the_step_s_own_error(run):
    """Otherwise the error of the refusal would count as one of the worker, and the step would run again."""
    error = run.error("frozen")
    assert (error["type"], error["text"], run.tries("frozen")) == ("FrozenError", "7", 1)


@pytest.mark.parametrize(
    ("task", "code", "text"),
    [("exits_true", 1, "The step called sys.exit(True)"), ("exits_not_ok", 0, "The step called sys.exit()")],
)
def test_an_exit_code_of_any_type_fails_the_task_once(run, task, code, text):
    assert run.error(task)["text"].startswith(text)
    assert f"why: user_error, exit code {code}\n" in run.error(task)["text"]
    assert run.tries(task) == 1
    assert run.log("exits_true").count("[info     ] one try ") == 1


FOLD = "::group::The frames of the worker"


@pytest.mark.parametrize("task", ["own", "own_deferred", "chained", "local", "missing_file", "exits_true"])
def test_the_log_shows_the_frames_of_the_step_once_and_first(run, task):
    log = run.log(task)
    before, _, after = log.partition(FOLD)
    # the frames of the step: the last of each traceback, once and before those of the worker
    (source,) = {
        "own": ['raise ApiError("unavailable", status=503'],
        "own_deferred": ['raise ApiError("unavailable", status=503'],
        "chained": ['raise KeyError("wrapped") from error'],
        "local": ['raise HereError("only in the step")'],
        "missing_file": ['open("/no/such/file")'],
        "exits_true": ["sys.exit(True)  "],
    }[task]
    assert before.count(source) == 1
    assert source not in after
    assert log.count(f", in {task}") == (2 if task == "chained" else 1)
    # the frames of the worker: folded, and none of the session's
    assert "sdk/execution_time/task_runner.py" not in before
    assert "sdk/execution_time/task_runner.py" in after
    assert "lifecycle/worker.py" not in after


@pytest.mark.parametrize(
    ("task", "last"),
    [
        ("own", "raises.ApiError: unavailable"),
        ("chained", "KeyError: 'wrapped'"),
        ("local", "raises.local.<locals>.HereError: only in the step"),
        ("missing_file", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"),
        ("exits_true", "stepop: The step called sys.exit(True)"),
    ],
)
def test_the_last_line_of_the_log_is_the_step_s_error(run, task, last):
    """Of the log page: what follows is folded. In a console, Airflow's own lines follow."""
    line = run.log(task).partition(FOLD)[0].splitlines()[-2]
    assert line.partition(" [airflow")[0].strip() == last


def test_names_of_dag_files_are_those_of_their_authors(run):
    assert "unusual_prefix" not in run.log("own").partition(FOLD)[0]


def test_a_step_ends_though_its_thread_does_not(run):
    run.assert_state("leaves_a_thread")
    assert run.value("leaves_a_thread") == "the value"
    line = "stepop: the step has ended; waiting up to 0.2 s (thread_grace) for its thread 'pump'"
    assert run.log("leaves_a_thread").count(line) == 1


def test_a_step_that_closes_its_output_has_nothing_to_complain_about(run):
    assert run.value("closes_stdout") == "closed"
    assert "at exit" not in run.log("closes_stdout")
