"""With ``[stepop] allow_pickle = False`` no process of Airflow loads a pickle, and steps still do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    env = {"AIRFLOW__STEPOP__ALLOW_PICKLE": "False"}
    return airflow_process.run(Path(__file__).parent / "dags" / "pickles.py", env=env)


def marks(run):
    return sorted(path.name for path in run.place.marks.iterdir())


def test_data_and_arguments_travel_as_ever(run):
    assert run.value("reads_data") == [0.9, [1, 2], "reads_data"]
    assert run.value("takes_and_uses_objects") == 3


@pytest.mark.parametrize("task", ["model", "several"])
def test_the_step_that_returned_a_pickle_fails(run, task):
    error = run.error(task)
    assert error["type"] == "StepFailedError"
    assert (
        "the step returned what only pickle can hold, and [stepop] allow_pickle is false: ['model'] is Forest"
        in error["text"]
    )
    assert "what to do: return JSON, bytes, NumPy or Arrow data" in error["text"]
    assert run.tries(task) == 1
    assert not {"return_value", "auc", "model"} & set(run.xcoms.get(task, {}))


def test_the_exception_of_a_step_is_data(run):
    assert "no luck" in run.error("raises")["text"]
    assert "raised.loaded" not in marks(run)


@pytest.mark.parametrize("task", ["reads", "reads_itself"])
def test_no_task_loads_an_earlier_pickle(run, task):
    error = run.error(task)
    assert error["type"] == "ResultNotLoadedError"
    assert "A result of the step 'earlier' (Forest, " in error["text"]
    assert "[stepop] allow_pickle is false" in error["text"]
    assert not {"task.loaded", "itself.loaded"} & set(marks(run))


def test_a_callback_loads_nothing_either(run):
    assert (run.place.marks / "callback.txt").read_text()
    assert "task.loaded" not in marks(run)


def test_a_step_loads_an_earlier_pickle(run):
    run.assert_state("reads_in_a_step")
    assert "step.loaded" in marks(run)
