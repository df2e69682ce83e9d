"""``[stepop] allow_pickle``: whether a process of Airflow loads what only pickle can hold."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.exceptions import ResultNotLoadedError, StepConfigError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import OutcomeReport
from airflow_stepop.lifecycle.options import defaults_for
from airflow_stepop.operators import RemoteStepOperator
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.results import StepResult, loads
from airflow_stepop.runner.outcome import empty_outcome
from airflow_stepop.runner.values import encode_value
from tests.support.connections import connection_with


class Marking:
    """Makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "a key of the tests")
    return tmp_path / "mark"


@pytest.fixture
def refusing(monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__ALLOW_PICKLE", "False")


def entry_of(value, **fields):
    entry = encode_value(value, lambda one, keep: pickle.dumps(one, 5, buffer_callback=keep)).to_entry(None)
    return {**entry, **fields}


def collected(**fields):
    data = json.dumps({**empty_outcome("s-job", "n"), "status": "success", **fields}).encode()
    report = OutcomeReport(hashlib.sha256(data).hexdigest(), data, "file:///nowhere")
    return read_outcome(report, "s-job", "n", "train")


def test_a_pickle_is_loaded_unless_it_is_forbidden(mark):
    StepResult.signed(entry_of(Marking(mark)), "").load()
    assert mark.exists()


def test_no_pickle_of_a_reference_is_loaded(mark, refusing):
    """Whoever reads it: a task, a callback, the API server. They all call ``load``."""
    result = StepResult.signed(entry_of(Marking(mark), about="Forest"), "", "s-job", "train")
    with pytest.raises(ResultNotLoadedError) as error:
        result.load()
    assert str(error.value) == (
        f"A result of the step 'train' (Forest, {result.size} B) is not loaded here: only pickle can hold "
        "it, and [stepop] allow_pickle is false. Let the step return JSON, bytes, NumPy or Arrow data, or "
        "read the result in a step"
    )
    assert not mark.exists()


def test_no_other_way_loads_one(mark, refusing):
    with pytest.raises(ResultNotLoadedError, match=r"\[stepop\] allow_pickle is false"):
        loads(pickle.dumps(Marking(mark)), [])
    assert not mark.exists()


def test_data_is_loaded(mark, refusing):
    assert StepResult.signed(entry_of({"a": (1, {2})}), "").load() == {"a": (1, {2})}


@pytest.mark.parametrize("text", ["maybe", ""])
def test_a_mistake_in_the_option_loads_nothing(mark, monkeypatch, text):
    monkeypatch.setenv("AIRFLOW__STEPOP__ALLOW_PICKLE", text)
    with pytest.raises(StepConfigError, match=r"\[stepop\] allow_pickle must be true or false, and this is"):
        StepResult.signed(entry_of(Marking(mark)), "").load()
    assert not mark.exists()


PICKLED = entry_of(object, about="dict of 2", pickled="['model'] is forests.Forest")
REFUSED = {
    "the value": ({"value": PICKLED}, "['model'] is forests.Forest"),
    "one of several": (
        {"split": "dict", "values": {"auc": entry_of(0.9), "model": entry_of(object, about="Forest")}},
        "['model'] is Forest",
    ),
    "one of a list": ({"split": "list", "values": [entry_of(1), entry_of(object)]}, "[1] is pickle"),
    "an old runner": ({"value": entry_of(object, about="Forest")}, "the result is Forest"),
    "a hostile text": (
        {"value": entry_of(object, pickled="\x1b[2Ja\n::endgroup::" + "b" * 9999)},
        "a\N{SYMBOL FOR LINE FEED}::endgroup::" + "b" * 100,
    ),
}


@pytest.mark.parametrize(("fields", "text"), REFUSED.values(), ids=REFUSED)
def test_the_step_that_returned_it_fails(mark, refusing, fields, text):
    """Before anything is pushed. The error names the place and the type, and the step does not run again."""
    found = collected(**fields, usage={"wall_s": 2.0})
    assert "result" not in found
    failure = Failure.from_json(found["failure"])
    assert (failure.category, failure.has_succeeded) == (Category.BAD_CONFIG, True)
    what = "the step returned what only pickle can hold, and [stepop] allow_pickle is false: "
    assert failure.summary.startswith(what + text)
    assert "return JSON, bytes, NumPy or Arrow data" in failure.hint
    assert len(failure.summary) < 1000
    assert failure.summary.isprintable()
    assert found["usage"] == {"wall_s": 2.0}


def test_a_step_that_returns_data_succeeds(mark, refusing):
    assert "result" in collected(value=entry_of({"a": {1, 2}}))


def test_the_text_about_a_pickle_does_not_travel_on(mark):
    result = collected(value=PICKLED)["result"]["value"]["reference"]
    assert "pickled" not in result["entry"]


def test_a_task_cannot_switch_it_on(refusing):
    """No argument and no connection has this option."""
    assert "allow_pickle" not in inspect.signature(RemoteStepOperator).parameters
    with pytest.raises(StepConfigError, match="it has 'allow_pickle', which is no default"):
        defaults_for(connection_with({"allow_pickle": True}), "local")


def test_every_loaded_pickle_is_in_the_log(mark, caplog):
    result = StepResult.signed(entry_of(Marking(mark), about="Forest"), "", "s-job", "train")
    with caplog.at_level(logging.INFO, "airflow_stepop"):
        result.load()
        StepResult.signed(entry_of({"data": 1}), "", "s-job", "train").load()
    (line,) = [one.getMessage() for one in caplog.records if "pickle" in one.getMessage()]
    assert line == (
        f"Loading a pickle of the step 'train' (Forest, {result.size} B; job s-job; "
        f"SHA-256 {result.digest}): it may run code of that step in this process"
    )
