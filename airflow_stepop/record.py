"""The record of a step: what Airflow remembers about it across retries, clears and kill -9.

It lives in the task instance's ``task_state_store`` under one key and is written by one ``set``. Anybody who
may look at the task in the UI can read it: no secrets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from secrets import token_hex
from typing import Any, Protocol

from airflow_stepop.core.naming import job_name
from airflow_stepop.core.stored_json import COUNT, NUMBER, OBJECT, TEXT, TRUTH, checked_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Failure
from airflow_stepop.job import JobHandle

STATE_KEY = "stepop"  # renaming breaks steps in flight


class StateStore(Protocol):
    """The part of Airflow's ``task_state_store`` that we use."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Call:
    """What makes a try of a task the same call as an earlier one.

    :param key: digest of the normalised code and the arguments
    :param max_tries: rises when the task is cleared, stays when it is retried
    :param clear_number: how often the run was cleared
    """

    key: str
    max_tries: int
    clear_number: int


@dataclass(frozen=True)
class StepRecord:
    """One generation of a step: at most one job carries its nonce."""

    generation: int
    nonce: str
    call: Call
    backend: str
    conn_id: str | None
    name: str
    started_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    handle: JobHandle | None = None
    submitted_at: float | None = None
    collected: Mapping[str, Any] | None = None
    resubmissions: int = 0
    memory_bytes: int | None = None  # what on_oom asks for, instead of what the task asks for
    keep: str = "failed"  # for sweep, which meets the job without its task
    # settings without which the job cannot be found
    location: Mapping[str, Any] = field(default_factory=dict)
    # what the job was submitted with, whatever its connection says now
    asked: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        plain = {name: dict(getattr(self, name)) for name in ("labels", "location", "asked")}
        data = {**asdict(self), **plain}
        data["handle"] = self.handle.to_json() if self.handle else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepRecord:
        """Return the record; what a newer version added is left out, as a job of its may be under way.

        :raises IntegrityError: this is none
        """
        known = checked_fields(data, "the record", _FIELDS, _LATER_FIELDS)
        labels = known.get("labels", {})
        checked_fields(labels, "the record's labels", {}, dict.fromkeys(labels, TEXT))
        if known.get("collected") is not None:
            _check_collected(known["collected"])
        checked_fields(known.get("asked", {}), "what the record has asked for", {}, _ASKED_FIELDS)
        handle = known.get("handle")
        known["handle"] = JobHandle.from_json(handle) if handle is not None else None
        known["call"] = Call(**checked_fields(known["call"], "the record's call", _CALL_FIELDS))
        return cls(**known)

    def with_handle(self, handle: JobHandle) -> StepRecord:
        return replace(self, handle=handle, submitted_at=self.submitted_at or time.time())


_ASKED_FIELDS = {
    "timeout_s": NUMBER,
    "start_timeout_s": or_nothing(NUMBER),
    "deferrable": or_nothing(TRUTH),
    "resources": OBJECT,
}
_CALL_FIELDS = {"key": TEXT, "max_tries": COUNT, "clear_number": COUNT}
_FIELDS = {
    "generation": COUNT,
    "nonce": TEXT,
    "call": OBJECT,
    "backend": TEXT,
    "conn_id": or_nothing(TEXT),
    "name": TEXT,
    "started_at": NUMBER,
}
_LATER_FIELDS = {
    "labels": OBJECT,
    "handle": or_nothing(OBJECT),
    "submitted_at": or_nothing(NUMBER),
    "collected": or_nothing(OBJECT),
    "resubmissions": COUNT,
    "memory_bytes": or_nothing(COUNT),
    "keep": TEXT,
    "location": OBJECT,
    "asked": OBJECT,
}


def _check_collected(collected: Mapping[str, Any]) -> None:
    usage = checked_fields(collected, "what the record has collected", {}, {"usage": OBJECT}).get("usage", {})
    checked_fields(usage, "the record's usage", {}, {"asked": OBJECT, "hint": TEXT})
    if "failure" in collected:
        Failure.from_json(collected["failure"])
    else:
        checked_fields(collected, "what the record has collected", {"result": OBJECT})


def first_record(
    *,
    call: Call,
    backend: str,
    conn_id: str | None,
    labels: Mapping[str, str],
    generation: int,
    resubmissions: int = 0,
) -> StepRecord:
    """Return the record of a new generation, with a fresh nonce; nothing of it exists outside yet."""
    nonce = token_hex(8)
    return StepRecord(
        generation=generation,
        nonce=nonce,
        call=call,
        backend=backend,
        conn_id=conn_id,
        name=job_name(labels["dag_id"], labels["task_id"], nonce),
        started_at=time.time(),
        labels={**labels, "nonce": nonce},
        resubmissions=resubmissions,
    )


class ResumeDecision(StrEnum):
    """How a try goes on from the record that it finds."""

    START = "start"  # nothing is known: a new generation
    REPLACE = "replace"  # cleared, changed, or failed before: end what there is, then a new generation
    CONTINUE = "continue"  # intended, and no handle: look it up, else submit under the same name
    ATTACH = "attach"  # a job is known: wait for it
    RETURN = "return"  # the result was collected and its XCom was not pushed: return it again


def resume_decision(record: StepRecord | None, call: Call) -> ResumeDecision:
    """Return how a new try goes on. The order matters: a cleared or changed step never reuses anything."""
    if record is None:
        return ResumeDecision.START
    if record.call != call:
        return ResumeDecision.REPLACE
    if record.collected is not None:
        return ResumeDecision.RETURN if "result" in record.collected else ResumeDecision.REPLACE
    return ResumeDecision.CONTINUE if record.handle is None else ResumeDecision.ATTACH


def load_record(state: StateStore) -> StepRecord | None:
    """Return the record of this task instance, if there is one.

    :raises IntegrityError: there is one and it is damaged. A job of it may run, so it is not taken for none
    """
    data = state.get(STATE_KEY)
    if data is None:
        return None
    try:
        return StepRecord.from_json(data)
    except IntegrityError as error:
        raise IntegrityError(
            f"the record of this step in the task's state (key {STATE_KEY!r}) is damaged: {error}. "
            "Nothing was started, because a job of this task may be running: look for it with "
            "'airflow stepop jobs' and stop it, delete that key of the task's state "
            "(.../taskInstances/<task>/state-store/stepop of Airflow's REST API), then clear the task"
        ) from error


def save_record(state: StateStore, record: StepRecord) -> None:
    state.set(STATE_KEY, record.to_json())
