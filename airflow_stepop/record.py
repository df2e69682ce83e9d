"""The record of a step: what Airflow remembers about it across retries, clears and kill -9.

It lives in the task instance's ``task_state_store`` under one key and is written by one ``set``. Anybody who
may look at the task in the UI can read it: no secrets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from secrets import token_hex
from typing import Any, Protocol

from airflow_stepop.job import JobHandle
from airflow_stepop.names import job_name

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

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "labels": dict(self.labels)}
        data["handle"] = self.handle.to_json() if self.handle else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepRecord:
        """Return the record; what a newer version added is left out, as a job of its may be under way."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        handle = known.get("handle")
        known["handle"] = JobHandle.from_json(handle) if handle else None
        return cls(**{**known, "call": Call(**data["call"])})

    def with_handle(self, handle: JobHandle) -> StepRecord:
        return replace(self, handle=handle, submitted_at=self.submitted_at or time.time())


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


class Way(StrEnum):
    """How a try goes on from the record that it finds."""

    START = "start"  # nothing is known: a new generation
    REPLACE = "replace"  # cleared, changed, or failed before: end what there is, then a new generation
    CONTINUE = "continue"  # intended, and no handle: look it up, else submit under the same name
    ATTACH = "attach"  # a job is known: wait for it
    RETURN = "return"  # the result was collected and its XCom was not pushed: return it again


def way_on(record: StepRecord | None, call: Call) -> Way:
    """Return how a new try goes on. The order matters: a cleared or changed step never reuses anything."""
    if record is None:
        return Way.START
    if record.call != call:
        return Way.REPLACE
    if record.collected is not None:
        return Way.RETURN if "result" in record.collected else Way.REPLACE
    return Way.CONTINUE if record.handle is None else Way.ATTACH


def load_record(state: StateStore) -> StepRecord | None:
    """Return the record of this task instance, if there is one that this version can read."""
    data = state.get(STATE_KEY)
    return StepRecord.from_json(data) if isinstance(data, Mapping) else None


def save_record(state: StateStore, record: StepRecord) -> None:
    state.set(STATE_KEY, record.to_json())
