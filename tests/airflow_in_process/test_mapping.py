"""Tasks that are mapped over the result of a step."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(HERE / "dags" / "mapping.py")


@pytest.mark.parametrize(
    ("task", "returned", "advice"),
    [
        ("array", "numpy.ndarray 3 x 2, ", "return list(array) for its rows, or array.tolist()"),
        ("frame", "pandas.DataFrame 2 x 2, ", 'return frame.to_dict("records") for its rows'),
        ("odd_set", "set of 3, ", "return sorted(...) of it"),
        ("model", "Model, ", "return a list or a dict"),
        ("text", "str", "return a list or a dict"),
        ("data", "bytes, 3 B", "return a list or a dict"),
        ("numbers_as_keys", "dict of 2, ", "give the dict keys that are text"),
        ("nothing", "None", "return a list or a dict"),
    ],
)
def test_what_cannot_be_mapped_over_is_named(run, task, returned, advice):
    error = run.error(task)
    assert error["type"] == "StepFailedError"
    assert error["text"].startswith(f"the step returned {returned}")
    wanted = f". Airflow maps tasks over a list or a dict only, and each_{task} is mapped over this result"
    assert wanted in error["text"]
    assert f"what to do: {advice}" in error["text"]
    assert "StepResult" not in error["text"]
    run.assert_state(f"each_{task}", "upstream_failed")


def test_a_generator_is_named(run):
    error = run.error("generator")
    assert "The step returned a value of type generator" in error["text"]
    assert "return list(...) of it" in error["text"]


def test_all_mapped_tasks_are_named(run):
    assert "and group, in_a_step are mapped over this result" in run.error("array_for_two")["text"]


@pytest.mark.parametrize("task", ["a_tuple", "a_pair", "ordered"])
def test_what_an_ordinary_task_may_return_can_be_mapped_over(run, task):
    for index in (0, 1):
        item = run.value(f"each_{task}[{index}]")
        assert item == run.value(f"each_ordinary_{task}[{index}]")


def test_instances_of_a_mapped_step_may_return_anything(run):
    run.assert_state("count[0]")
    run.assert_state("count[1]")
