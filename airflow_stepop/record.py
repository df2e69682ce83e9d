"""The record of a step: its state in Airflow across retries, clears and ``kill -9`` of a worker.

The lifecycle stores the record in the task instance's ``task_state_store``, under one key. Each change is one
``set``, so a record is never half written. ``inventory`` and ``maintenance`` read the records of all tasks.

Every user who may see the task in the UI can read the record, so the record contains no secrets. Some users
may write the record, too. So it is signed, together with the deployment and the task instance: a record that
was changed, or copied from another task, is an :class:`UntrustedRecord`. An older record of the same task
instance that somebody puts back is not noticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Protocol

from airflow_stepop.core.naming import job_name
from airflow_stepop.core.signing_key import Purpose, sign, why_refused
from airflow_stepop.core.stored_json import COUNT, NUMBER, OBJECT, TEXT, TRUTH, checked_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError, NewerVersionError, StepConfigError
from airflow_stepop.failure import Failure
from airflow_stepop.job import JobHandle, JobStatus

if TYPE_CHECKING:
    from airflow_stepop.core.documents import CollectedData

# Of a record's form. A reader refuses a later one. A new field that a reader may leave out is no new form
VERSION = 1
STATE_KEY = "stepop"  # never rename the key: running steps would lose their records


class StateStore(Protocol):
    """The part of Airflow's ``task_state_store`` that this package uses."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class CallIdentity:
    """The identity of a call. Two tries of a task are the same call if all fields are equal.

    :param key: digest of the normalised code and the arguments
    :param max_tries: Airflow's ``max_tries``: a clear raises it, a retry does not
    :param clear_number: how often the DAG run was cleared
    """

    key: str
    max_tries: int
    clear_number: int


@dataclass(frozen=True)
class StepRecord:
    """The record of one generation of a step. Each new job of the task instance is a new generation.

    :param generation: number of the generation, from 1
    :param nonce: random id of the generation; at most one job has it
    :param call: the call that the job runs
    :param backend: name of the job's backend
    :param conn_id: id of the connection for the job; ``None``: the backend's default one, if there is one
    :param name: the job's name, which contains a hash of the nonce
    :param started_at: when the generation began, in seconds since the epoch
    :param labels: labels of the job, by which the backend finds the job again
    :param handle: the job, once it was submitted
    :param submitted_at: when the handle was first known, in seconds since the epoch
    :param end: how the job ended, once a process has seen it. Saved before the outcome is read, because the
        job may be gone when another process reads the outcome
    :param collected: the outcome, once it was read: a ``result`` or a ``failure``, and the ``usage``
    :param resubmissions: how often a job was replaced without a retry of the task, for example after its
        machine was lost
    :param alternative: index of the kind of machine to ask for, see ``BackendSettings.alternatives``
    :param memory_bytes: the memory that ``on_oom`` asks for, if it is more than the task's own
    :param keep: the task's option ``keep``, for ``airflow stepop sweep``, which does not load the task
    :param location: backend settings that are needed to find the job again
    :param asked: the options that the job was submitted with. A later edit of its connection does not change
        them
    :param stop: set while the job is being stopped: ``since`` when, the ``reason`` if a deadline has passed,
        and the service's ``native_state`` then
    """

    generation: int
    nonce: str
    call: CallIdentity
    backend: str
    conn_id: str | None
    name: str
    started_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    handle: JobHandle | None = None
    submitted_at: float | None = None
    end: JobStatus | None = None
    collected: CollectedData | None = None
    resubmissions: int = 0
    alternative: int = 0
    memory_bytes: int | None = None
    keep: str = "failed"
    location: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        plain = {name: dict(getattr(self, name)) for name in ("labels", "location", "asked", "stop")}
        data = {"version": VERSION, **asdict(self), **plain}
        data["handle"] = self.handle.to_json() if self.handle else None
        data["end"] = self.end.to_json() if self.end else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepRecord:
        """Return the record. Fields that a newer version of this package added are left out.

        :raises NewerVersionError: a newer version of this package wrote the record in another form
        :raises IntegrityError: ``data`` is not a record, or is damaged
        """
        version = checked_fields(data, "the record", {}, {"version": COUNT}).get("version", VERSION)
        if version > VERSION:
            raise NewerVersionError(
                f"it was written by a newer airflow-stepop (form {version}, and this one reads {VERSION})"
            )
        known = checked_fields(data, "the record", _REQUIRED_FIELDS, _OPTIONAL_FIELDS)
        labels = known.get("labels", {})
        checked_fields(labels, "the record's labels", {}, dict.fromkeys(labels, TEXT))
        if known.get("collected") is not None:
            _check_collected(known["collected"])
        checked_fields(known.get("asked", {}), "what the record has asked for", {}, _ASKED_FIELDS)
        checked_fields(known.get("stop", {}), "the record's stop", {}, _STOP_FIELDS)
        handle = known.get("handle")
        known["handle"] = _bound(JobHandle.from_json(handle), known["nonce"]) if handle is not None else None
        end = known.get("end")
        known["end"] = JobStatus.from_json(end) if end is not None else None
        known["call"] = CallIdentity(**checked_fields(known["call"], "the record's call", _CALL_FIELDS))
        return cls(**known)

    def with_handle(self, handle: JobHandle) -> StepRecord:
        """Return the record with a handle. The time of the first submission is kept."""
        handle = _bound(handle, self.nonce)
        return replace(self, handle=handle, submitted_at=self.submitted_at or time.time())


def _bound(handle: JobHandle, nonce: str) -> JobHandle:
    """Return the handle with the nonce of its record, with which a hook compares that of the job."""
    return replace(handle, nonce=nonce)


_ASKED_FIELDS = {
    "timeout_s": NUMBER,
    "start_timeout_s": or_nothing(NUMBER),
    "deferrable": or_nothing(TRUTH),
    "resources": OBJECT,
}
_STOP_FIELDS = {"since": NUMBER, "reason": TEXT, "native_state": TEXT}
_CALL_FIELDS = {"key": TEXT, "max_tries": COUNT, "clear_number": COUNT}
_REQUIRED_FIELDS = {
    "generation": COUNT,
    "nonce": TEXT,
    "call": OBJECT,
    "backend": TEXT,
    "conn_id": or_nothing(TEXT),
    "name": TEXT,
    "started_at": NUMBER,
}
_OPTIONAL_FIELDS = {
    "labels": OBJECT,
    "handle": or_nothing(OBJECT),
    "submitted_at": or_nothing(NUMBER),
    "end": or_nothing(OBJECT),
    "collected": or_nothing(OBJECT),
    "resubmissions": COUNT,
    "alternative": COUNT,
    "memory_bytes": or_nothing(COUNT),
    "keep": TEXT,
    "location": OBJECT,
    "asked": OBJECT,
    "stop": OBJECT,
}


def _check_collected(collected: Mapping[str, Any]) -> None:
    usage = checked_fields(collected, "the record's collected data", {}, {"usage": OBJECT}).get("usage", {})
    checked_fields(usage, "the record's usage", {}, {"asked": OBJECT, "hint": TEXT})
    if "failure" in collected:
        Failure.from_json(collected["failure"])
    else:
        checked_fields(collected, "the record's collected data", {"result": OBJECT})


def first_record(
    *,
    call: CallIdentity,
    backend: str,
    conn_id: str | None,
    labels: Mapping[str, str],
    generation: int,
    resubmissions: int = 0,
) -> StepRecord:
    """Return the first record of a new generation, with a new nonce; the generation has no job yet."""
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
    """How a new try continues from the record of the task instance."""

    START = "start"  # there is no record: start a new generation
    REPLACE = "replace"  # cleared, changed, or failed before: end the old job, then start a new generation
    CONTINUE = "continue"  # a record without a handle: look the job up by name, else submit it
    ATTACH = "attach"  # a record with a handle: wait for that job
    # the result was collected but its XCom was not pushed: return the result. Or the step has succeeded and
    # its outcome is lost: report that again
    RETURN = "return"


def resume_decision(record: StepRecord | None, call: CallIdentity) -> ResumeDecision:
    """Return how a new try continues.

    The order of the rules matters: a cleared or changed step uses neither the old job nor its result.
    """
    if record is None:
        return ResumeDecision.START
    if record.call != call:
        return ResumeDecision.REPLACE
    if record.collected is not None:
        is_final = "result" in record.collected or record.collected["failure"].get("has_succeeded")
        return ResumeDecision.RETURN if is_final else ResumeDecision.REPLACE
    return ResumeDecision.CONTINUE if record.handle is None else ResumeDecision.ATTACH


def load_record(state: StateStore, owner: Mapping[str, str]) -> StepRecord | UntrustedRecord | None:
    """Return the record of this task instance, if there is one.

    :param owner: labels of the task instance, see ``OWNER``
    :raises NewerVersionError: a newer version of this package wrote the record in another form
    :raises IntegrityError: the record is damaged. A damaged record is not treated as a missing one, because
        its job may be running
    """
    data = state.get(STATE_KEY)
    if data is None:
        return None
    try:
        return checked_record(data, owner)
    except NewerVersionError as error:
        raise NewerVersionError(
            f"the record of this step in the task's state (key {STATE_KEY!r}) cannot be read: {error}. "
            f"Nothing was started, because a job of this task may be running: {UPGRADE_HERE}"
        ) from error
    except IntegrityError as error:
        raise IntegrityError(
            f"the record of this step in the task's state (key {STATE_KEY!r}) is damaged: {error}. "
            f"Nothing was started, because a job of this task may be running: {FORGET_RECORD}"
        ) from error


UPGRADE_HERE = "upgrade airflow-stepop here, as on the other hosts; the next try goes on with the job"
FORGET_RECORD = (
    "look for it with 'airflow stepop jobs' and stop it, delete that key of the task's state "
    "(.../taskInstances/<task>/state-store/stepop of Airflow's REST API), then clear the task"
)


def save_record(state: StateStore, record: StepRecord, owner: Mapping[str, str]) -> None:
    """Save the record, with a signature.

    :param owner: labels of the task instance, see ``OWNER``
    """
    state.set(STATE_KEY, signed(record.to_json(), owner))


# -- the signature

# What the signature binds a record to, besides the record itself. A DAG run that is deleted and created again
# has the same names, and gets no record of the first one: Airflow deletes a task's state with the task.
OWNER = ("deployment", "dag_id", "run_id", "task_id", "map_index")
_MAC = "mac"


@dataclass(frozen=True)
class UntrustedRecord:
    """A record without a valid signature for its task instance.

    :param claimed: what the record says. Of it counts ``generation`` alone, and what makes the task fail
    :param why: why the signature is not valid, as a part of a sentence
    """

    claimed: StepRecord
    why: str


def signed(data: Mapping[str, Any], owner: Mapping[str, str]) -> dict[str, Any]:
    """Return a record's JSON with a signature for the task instance."""
    return {**data, _MAC: sign(Purpose.RECORD, _signed_bytes(data, owner))}


def checked_record(data: Any, owner: Mapping[str, str]) -> StepRecord | UntrustedRecord:
    """Return the record of a task instance.

    The signature also covers fields that a newer version of this package added.

    :param data: parsed JSON
    :param owner: labels of the task instance, see ``OWNER``
    :raises NewerVersionError: a newer version of this package wrote the record in another form
    :raises IntegrityError: ``data`` is not a record, or is damaged
    :raises StepConfigError: ``[stepop] unsigned_records_until`` is no time
    """
    record = StepRecord.from_json(data)
    why = why_refused(Purpose.RECORD, _signed_bytes(data, owner), data.get(_MAC))
    if not why:
        return record
    if _MAC not in data and time.time() < _unsigned_until():
        if all(record.labels.get(name) == owner[name] for name in OWNER):
            return record
        why = "it is the unsigned record of another task"
    return UntrustedRecord(record, why)


def _signed_bytes(data: Mapping[str, Any], owner: Mapping[str, str]) -> bytes:
    content = {name: value for name, value in data.items() if name != _MAC}
    return json.dumps([[owner[name] for name in OWNER], content], sort_keys=True).encode()


def _unsigned_until() -> float:
    """Return until when a record without a signature counts, seconds since the epoch; 0: it never counts."""
    from airflow.sdk.configuration import conf

    text = str(conf.get("stepop", "unsigned_records_until", fallback="") or "").strip()
    if not text:
        return 0.0
    try:
        until = datetime.fromisoformat(text)
    except ValueError as error:
        raise StepConfigError(
            f"[stepop] unsigned_records_until is a date or a time, such as 2027-01-31, and not {text!r}"
        ) from error
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()
