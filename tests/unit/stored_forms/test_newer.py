"""What a newer version has written, read by this one: it is read, or there is one clear error.

While a deployment is upgraded, some of its processes are still older than what they find. So is every process
after a rollback.
"""

from __future__ import annotations

import copy

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.serde import deserialize

import airflow_stepop.plugin  # noqa: F401 - each process of Airflow loads the plugin
from airflow_stepop.core.signing_key import Purpose, why_refused
from airflow_stepop.exceptions import IntegrityError, NewerVersionError, is_final
from airflow_stepop.inventory.database import TaskKey, checked
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.record import STATE_KEY, StepRecord, checked_record, load_record, save_record, signed
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import LABELS, Log
from tests.support.stored_forms import StoredState, owner_of


@pytest.fixture
def record(forms):
    """Return a function that changes a stored record, and signs it as the newer version does."""

    def change(name="submitted", **fields):
        stored = forms.read(f"records/{name}")
        owner = owner_of(stored)
        changed = {key: one for key, one in {**stored, **fields}.items() if key != "mac"}
        return signed(changed, owner), owner

    return change


# -- a record


def test_fields_that_are_not_known_are_left_out(record):
    """The signature covers them. Whatever this version saves has them no more."""
    newer, owner = record(colour="red", call={**record()[0]["call"], "shade": 1})
    state = StoredState(newer)
    found = load_record(state, owner)
    assert isinstance(found, StepRecord)
    assert found == load_record(StoredState(record()[0]), owner)
    save_record(state, found, owner)
    assert "colour" not in state.get(STATE_KEY)
    assert isinstance(load_record(state, owner), StepRecord)


def test_a_record_of_a_newer_form_starts_nothing(hook, state, new_try):
    """The next try may run on a worker that was upgraded."""
    running = new_try().begin().name
    stored = {name: one for name, one in state.get(STATE_KEY).items() if name != "mac"}
    newer = signed({**stored, "version": 2, "call": "what this version cannot read"}, LABELS)
    state.set(STATE_KEY, newer)
    with pytest.raises(NewerVersionError) as caught:
        new_try().begin()
    assert "written by a newer airflow-stepop (form 2, and this one reads 1)" in str(caught.value)
    assert "upgrade airflow-stepop here" in str(caught.value)
    assert not is_final(caught.value)
    assert (hook.running, hook.calls["submit"], hook.calls["cancel"]) == ([running], 1, 0)
    assert state.get(STATE_KEY) == newer


def test_the_commands_name_the_task_of_such_a_record(record):
    newer, owner = record(version=2)
    key = TaskKey(owner["dag_id"], owner["run_id"], owner["task_id"], int(owner["map_index"]))
    with pytest.raises(NewerVersionError, match=r"forms.*waiting.*newer airflow-stepop"):
        checked(newer, key)


def test_a_category_that_is_not_known(record):
    failure = copy.deepcopy(record("collected_failure")[0]["collected"])
    failure["failure"]["category"] = "moved"
    newer, owner = record("collected_failure", collected=failure)
    with pytest.raises(IntegrityError, match=r"category='moved'.*a newer airflow-stepop may have written it"):
        load_record(StoredState(newer), owner)


def test_a_deadline_that_is_not_known(record, request_of):
    newer, _ = record(stop={"since": 1.0, "reason": "too_warm", "native_state": ""})
    lifecycle = StepLifecycle(request_of(newer), StoredState(newer), Log())
    lifecycle.resume()
    with pytest.raises(NewerVersionError, match=r"'too_warm'.*upgrade airflow-stepop here"):
        lifecycle.stopped_job()


def test_a_signature_of_another_form(record):
    newer, owner = record()
    newer["mac"] = "v2:" + newer["mac"]
    assert "a newer airflow-stepop made it" in checked_record(newer, owner).why
    assert "a newer airflow-stepop made it" in why_refused(Purpose.RECEIPT, b"", "v2:0")


# -- an XCom


def test_an_xcom_of_a_newer_form(forms):
    newer = {**forms.read("xcoms/bytes"), "__version__": 2}
    with pytest.raises(
        NewerVersionError,
        match="a result of version 2 was written by a newer airflow-stepop, and this one reads",
    ):
        deserialize(newer)


def test_fields_of_an_xcom_that_are_not_known(forms):
    stored = forms.read("xcoms/bytes")
    found = deserialize({**stored, "__data__": {**stored["__data__"], "colour": "red"}})
    assert found.load() == b"\x00\x01bytes"


# -- a trigger


def test_arguments_of_a_trigger_that_are_not_known(forms):
    """A newer worker may defer with them, and an older triggerer makes the trigger."""
    for row in forms.read("triggers"):
        arguments = deserialize(row["kwargs"])
        trigger = import_string(row["classpath"])(**arguments, colour="red")
        assert "colour" not in trigger.serialize()[1]
        if "deadlines" in arguments:
            for name in ("deadlines", "handle", "waiter"):
                import_string(row["classpath"])(**{**arguments, name: {**arguments[name], "colour": "red"}})


@pytest.mark.parametrize("reason", ["too_warm", None, 7])
def test_an_event_for_a_reason_that_is_not_known(reason):
    """The worker then asks for the state of the job, as after every other event."""
    assert StopReason.of_event({"reason": reason}) is StopReason.FINISHED
    assert StopReason.of_event({}) is StopReason.FINISHED
    assert StopReason.of_event({"reason": "overdue"}) is StopReason.OVERDUE
