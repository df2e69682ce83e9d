"""A record that somebody has written, changed or copied leads to no job and to no result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.exceptions import StepConfigError, UntrustedRecordError
from airflow_stepop.failure import StepFailedError
from airflow_stepop.job import JobState
from airflow_stepop.lifecycle import unknown_jobs
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.oom import MoreMemory
from airflow_stepop.record import STATE_KEY, UntrustedRecord
from airflow_stepop.record import load_record as load_record_of
from airflow_stepop.record import save_record as save_record_of
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import LABELS, Log, load_record

DONE = {"result": {"value": {"plain": {"value": 1}}}}
OTHERS = [{"task_id": "other"}, {"run_id": "x"}, {"dag_id": "x"}, {"map_index": "3"}, {"deployment": "dev"}]


def stripped(data):
    return {name: value for name, value in data.items() if name != "mac"}


def forged_handle(data):
    return {**data, "handle": {**data["handle"], "id": "victim", "name": "victim"}}


def forged_result(data):
    return {**data, "collected": {"result": {"value": {"plain": {"value": "forged"}}}}}


def signed_with_nonsense(data):
    return {**data, "mac": "00000000:" + "0" * 64}


@pytest.fixture
def running(hook, new_try):
    """Return the name of the running job of a first try."""
    return new_try().begin().name


@pytest.mark.parametrize("forge", [stripped, forged_handle, forged_result, signed_with_nonsense])
def test_the_jobs_of_the_task_are_ended_and_the_step_starts_anew(hook, state, new_try, running, forge):
    hook.add("victim")
    log = Log()
    state.set(STATE_KEY, forge(state.get(STATE_KEY)))
    handle = new_try(log=log).begin()
    assert hook.jobs[running].state is JobState.CANCELLED
    assert hook.running == ["victim", handle.name]
    assert load_record(state).generation == 2
    (warning,) = [line for line in log.lines if "is not used" in line]
    assert running in warning


def test_a_forged_result_is_never_returned(hook, state, new_try, running):
    hook.end(running, value=DONE)
    state.set(STATE_KEY, forged_result(state.get(STATE_KEY)))
    began = new_try().begin()
    assert not isinstance(began, Collected)
    assert hook.calls["submit"] == 2


@pytest.mark.parametrize("other", OTHERS)
def test_the_record_of_another_task_is_refused(hook, state, new_try, running, other):
    hook.add("victim")
    record = replace(load_record(state), handle=hook.handle("victim"), collected=DONE)
    save_record_of(state, record, {**LABELS, **other})
    assert not isinstance(new_try().begin(), Collected)
    assert "victim" in hook.running
    assert hook.jobs[running].state is JobState.CANCELLED


@pytest.mark.parametrize("other", OTHERS)
def test_the_jobs_of_other_tasks_go_on(hook, state, new_try, running, other):
    hook.add("another")
    hook.labels["another"] = {**LABELS, **other}
    state.set(STATE_KEY, stripped(state.get(STATE_KEY)))
    new_try().begin()
    assert "another" in hook.running


def test_an_older_record_that_was_put_back_is_a_known_limit(hook, state, new_try, running):
    """The signature says whose record it is, and not how old it is: docs/security.md lists it."""
    old = state.get(STATE_KEY)
    hook.end(running, value=DONE)
    lifecycle = new_try()
    lifecycle.finish(lifecycle.begin(), StopReason.FINISHED)
    state.set(STATE_KEY, old)
    assert load_record(state).collected is None


OUT_OF_MEMORY = {"category": "oom", "summary": "x"}


@pytest.mark.parametrize(
    "forged",
    [
        {"memory_bytes": 1 << 50},
        {"resubmissions": 9},
        {"collected": {"failure": OUT_OF_MEMORY}},
        {"collected": {"failure": OUT_OF_MEMORY}, "memory_bytes": 1 << 50},
        {"asked": {"timeout_s": 1.0, "resources": {"memory": "1PiB"}}},
        {"stop": {"since": 1.0, "reason": "timeout"}},
    ],
    ids=str,
)
def test_a_retry_takes_nothing_from_it(hook, state, new_try, running, forged):
    """Neither the memory that ``on_oom`` asks for next, nor the count of resubmissions, nor old options."""
    state.set(STATE_KEY, {**state.get(STATE_KEY), **forged})
    lifecycle, specs, submit = new_try(), [], hook.submit
    lifecycle.request.on_oom = MoreMemory(cap="10GiB")
    hook.submit = lambda spec, payload: specs.append(spec) or submit(spec, payload)
    lifecycle.begin()
    record = load_record(state)
    assert (record.memory_bytes, record.resubmissions, record.stop) == (None, 0, {})
    assert record.asked["timeout_s"] == lifecycle.request.timeout_s
    assert [spec.resources for spec in specs] == [lifecycle.request.resources]
    assert lifecycle.stopped_job() is None


@pytest.mark.parametrize("entrance", ["resume", "ended_job"])
def test_a_resumed_task_gets_no_job_from_it(state, new_try, running, entrance):
    state.set(STATE_KEY, forged_handle(state.get(STATE_KEY)))
    lifecycle = new_try()
    assert getattr(lifecycle, entrance)() is None
    assert lifecycle.record is None


def test_a_task_that_was_ended_cancels_its_own_jobs(hook, state, new_try, running):
    hook.add("victim")
    state.set(STATE_KEY, forged_handle(state.get(STATE_KEY)))
    assert new_try().cancel() is None
    assert hook.running == ["victim"]


def test_a_job_that_does_not_end_is_not_doubled(hook, state, new_try, running, monkeypatch):
    monkeypatch.setattr(unknown_jobs, "WITHOUT_PAUSE_S", 0.0)
    hook.ignores_cancel = True
    state.set(STATE_KEY, stripped(state.get(STATE_KEY)))
    with pytest.raises(StepFailedError, match="could not be stopped"):
        new_try().begin()
    assert hook.calls["submit"] == 1
    hook.ignores_cancel = False
    new_try().begin()
    assert hook.jobs[running].state is JobState.CANCELLED, "the next try goes on with it"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backend": "kubernetes"}, "its job may be on kubernetes, and"),
        ({"conn_id": "theirs"}, r"its job may be on memory \(theirs\), and"),
    ],
)
def test_where_the_job_cannot_be_seen_the_task_fails(hook, state, new_try, running, change, text):
    state.set(STATE_KEY, {**state.get(STATE_KEY), **change})
    with pytest.raises(UntrustedRecordError, match=text) as caught:
        new_try().begin()
    assert "airflow stepop jobs" in str(caught.value)
    assert "state-store/stepop" in str(caught.value)
    assert hook.running == [running]


def test_on_another_host_the_task_fails(hook, state, new_try, running, monkeypatch):
    monkeypatch.setattr(type(hook), "is_host_bound", True)
    data = state.get(STATE_KEY)
    state.set(STATE_KEY, stripped({**data, "handle": {**data["handle"], "scope": "worker-7"}}))
    with pytest.raises(UntrustedRecordError, match="its job may be on the host worker-7"):
        new_try().begin()
    assert hook.running == [running]


def test_without_a_deployment_the_jobs_may_be_those_of_another_airflow(hook, state, new_try, running):
    hook.labels[running]["deployment"] = ""
    lifecycle = new_try()
    lifecycle.request.labels["deployment"] = ""
    with pytest.raises(UntrustedRecordError, match="since \\[stepop\\] deployment is not set"):
        lifecycle.begin()
    assert hook.running == [running]


def test_the_error_tells_another_key_from_a_change(state, running, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "one key")
    save_record_of(state, load_record(state), LABELS)
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "another key")
    found = load_record_of(state, LABELS)
    assert isinstance(found, UntrustedRecord)
    assert "it was signed with another key" in found.why
    assert "[stepop] signing_key" in found.why


def test_a_record_outlives_a_change_of_the_key(state, new_try, running, monkeypatch):
    record = load_record(state)
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "old")
    save_record_of(state, record, LABELS)
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "new,old")
    assert new_try().begin().name == running


def test_fields_of_a_newer_version_are_signed_too(state, running):
    data = state.get(STATE_KEY)
    state.set(STATE_KEY, {**data, "added_later": 1})
    assert isinstance(load_record_of(state, LABELS), UntrustedRecord)


# -- records that versions before have written


def test_an_unsigned_record_counts_until_a_time_that_an_administrator_sets(
    hook, state, new_try, running, monkeypatch
):
    state.set(STATE_KEY, stripped(state.get(STATE_KEY)))
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "9999-01-31")
    assert new_try().begin().name == running
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "2020-01-31T12:00:00+02:00")
    assert new_try().begin().name != running


@pytest.mark.parametrize("forge", [signed_with_nonsense, forged_result])
def test_a_wrong_signature_never_counts(state, running, monkeypatch, forge):
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "9999-01-31")
    state.set(STATE_KEY, forge(state.get(STATE_KEY)))
    assert isinstance(load_record_of(state, LABELS), UntrustedRecord)


def test_an_unsigned_record_of_another_task_never_counts(state, running, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "9999-01-31")
    state.set(STATE_KEY, stripped(state.get(STATE_KEY)))
    found = load_record_of(state, {**LABELS, "task_id": "other"})
    assert isinstance(found, UntrustedRecord)
    assert "of another task" in found.why


def test_a_wrong_time_is_named(state, new_try, running, monkeypatch):
    state.set(STATE_KEY, stripped(state.get(STATE_KEY)))
    monkeypatch.setenv("AIRFLOW__STEPOP__UNSIGNED_RECORDS_UNTIL", "soon")
    with pytest.raises(StepConfigError, match="unsigned_records_until is a date"):
        new_try().begin()
