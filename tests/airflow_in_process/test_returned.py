"""What a step returned: readable in Airflow's pages, exact for the next task, explained if it cannot load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [pytest.mark.timeout(900)]

UNREADABLE = ("read_by_name", "read_by_place", "read_inside", "read_mapped[0]", "read_in_a_step")


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(HERE / "dags" / "returned.py")


def data(run, task):
    """Return the fields of a reference in an XCom."""
    return run.value(task)["__data__"]


@pytest.mark.parametrize(
    "task",
    [
        "check_metrics",
        "check_typed",
        "check_typed_in_a_step",
        "check_odd",
        "check_odd_in_a_step",
        "check_several[0]",
        "check_several[1]",
        "check_several[2]",
        "check_views",
    ],
)
def test_values_arrive_with_their_types(run, task):
    run.assert_state(task)


def test_xcoms_can_be_read(run):
    """The JSON of a value stands in clear beside its reference."""
    assert data(run, "metrics")["value"] == {"auc": 0.93, "n": 3, "f": 0.5, "plain": 1.5}
    typed = data(run, "typed")["value"]
    assert typed["price"] == "0.10"
    assert typed["on"] == "2024-02-29T12:00:00+00:00"
    assert typed["by_class"] == {"0": 0.5, "1": 0.75}
    assert "value" not in data(run, "odd"), "no database holds 2**70"
    assert [isinstance(one, dict) and "__data__" in one for one in run.value("several")] == [
        True,
        False,
        False,
    ]


def test_a_reference_names_its_step_and_job(run):
    found = data(run, "frame")
    assert next(iter(found)) == "about"
    assert re.fullmatch(r"pandas\.DataFrame 2000 x 2, [\d.]+ KiB", found["about"])
    assert found["step"] == "frame"
    assert found["job"] in found["base_uri"] or not found["base_uri"]
    assert len(json.dumps(found)) < 60_000


def test_the_last_line_of_the_log_says_what_was_returned(run):
    assert re.search(
        r"returned pandas\.DataFrame 2000 x 2, [\d.]+ KiB -> (XCom|file://.*/results/)", run.log("frame")
    )
    assert re.search(r"returned dict of 4, \d+ B -> XCom", run.log("metrics"))


def test_the_log_names_what_was_pickled_and_what_is_not_finite(run):
    assert re.search(r"\['model'\] is only_in_the_step\.Forest: pickled, \d+ B", run.log("model"))
    assert "['loss'] is nan, ['history'][1] is inf" in run.log("odd")
    assert "pickled" not in run.log("typed")


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("read_by_name", "The argument 'trained', a result of the step 'model' (dict of 2, "),
        ("read_by_place", "The argument 'rest', a result of the step 'model' (dict of 2, "),
        ("read_inside", "A result of the step 'model' (dict of 2, "),
        ("read_mapped[0]", "The argument 'trained', a result of the step 'model' (dict of 2, "),
    ],
)
def test_a_value_that_cannot_be_loaded_is_explained_in_one_message(run, task, what):
    error = run.error(task)
    assert error["type"] == "ResultNotLoadedError"
    assert error["text"].startswith(what)
    assert (
        "cannot be loaded here: ModuleNotFoundError: No module named 'only_in_the_step'. The module"
        in error["text"]
    )
    assert "install its package there, read the result in a step" in error["text"]
    assert ("::endgroup::" in run.log(task).split("ResultNotLoaded")[0]) or task == "read_inside"


def test_a_step_that_cannot_load_a_result_says_which(run):
    text = run.error("read_in_a_step")["text"]
    wanted = (
        r"Loading argument 'trained' \(dict of 2, \d+ B of the step model\) failed here: ModuleNotFoundError"
    )
    assert re.search(wanted, text)


def test_nothing_else_failed(run):
    assert {task for task, state in run.states.items() if state != "success"} == set(UNREADABLE)
