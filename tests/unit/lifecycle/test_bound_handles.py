"""A hook always gets the nonce of the record, and compares it with that of the job at the service."""

from __future__ import annotations

import pytest

from airflow_stepop.record import STATE_KEY
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import load_record

DONE = {"result": {"value": {"plain": {"value": 1}}}}


@pytest.fixture
def nonces(hook, monkeypatch):
    """Return the nonces of the handles that the hook was given, by method."""
    given = {}

    def noting(name):
        real = getattr(hook, name)

        def call(handles):
            many = handles if isinstance(handles, (list, tuple)) else [handles]
            given.setdefault(name, set()).update(handle.nonce for handle in many)
            return real(handles)

        return call

    for name in ("status", "outcome", "cancel", "delete"):
        monkeypatch.setattr(hook, name, noting(name))
    return given


def test_of_a_whole_life(hook, state, new_try, nonces):
    lifecycle = new_try()
    handle = lifecycle.begin()
    nonce = load_record(state).nonce
    assert handle.nonce == nonce, "the trigger gets it"
    hook.end(handle.name, value=DONE)
    lifecycle.finish(new_try().begin(), StopReason.FINISHED)
    assert nonces == {"status": {nonce}, "outcome": {nonce}, "delete": {nonce}}


def test_of_a_job_that_is_looked_up(hook, state, new_try, nonces):
    hook.fails_after_submit = True
    with pytest.raises(ConnectionResetError):
        new_try(was_killed=lambda: True).begin()  # else the call would be repeated
    hook.fails_after_submit = False
    handle = new_try().begin()
    assert handle.nonce == load_record(state).nonce
    assert nonces["status"] == {handle.nonce}


def test_of_a_record_of_an_earlier_version(state, new_try, nonces, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "9999-01-31")
    new_try().begin()
    nonce, data = load_record(state).nonce, state.get(STATE_KEY)
    del data["mac"], data["handle"]["nonce"], data["handle"]["instance"]
    state.set(STATE_KEY, data)
    assert new_try().begin().nonce == nonce
    assert nonces["status"] == {nonce}


def test_of_a_job_that_is_replaced(hook, state, new_try, nonces):
    first = new_try().begin()
    second = new_try(key="changed").begin()
    assert nonces["cancel"] == nonces["delete"] == {first.nonce}
    assert second.nonce == load_record(state).nonce != first.nonce
