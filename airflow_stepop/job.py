"""The data types that Airflow's side and a backend exchange: request, handle, status, log lines, outcome.

The lifecycle and the trigger pass these types to a hook (``hooks/base.py``) and get them back. All types are
frozen and independent of any vendor. This module does no I/O.

``from_json`` is the inverse of ``to_json``. It leaves out fields that a newer version added, and raises
``IntegrityError`` for damaged data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from airflow_stepop.core.stored_json import NUMBER, OBJECT, TEXT, checked_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Failure
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.protocol import LEVEL_MARK

Buffer = bytes | bytearray | memoryview


class JobState(StrEnum):
    """The state of a job. A backend maps every native state of its service to one of these."""

    PENDING = "pending"  # accepted by the service; the step's process has not started
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"  # the service does not know the job (any more); never used for an API error

    @property
    def is_terminal(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING)

    @property
    def is_end(self) -> bool:
        """Whether the service says how the job ended. A job that is gone does not tell how it ended."""
        return self.is_terminal and self is not JobState.GONE


@dataclass(frozen=True)
class JobHandle:
    """Small JSON with which any process finds the job again.

    :param backend: registered name of the backend
    :param conn_id: Airflow connection to the service
    :param scope: the part of the service that one status call covers: a host, a cluster and namespace, or a
        region and account
    :param id: the service's own id of the job; unique within ``scope``
    :param name: the name under which the job was submitted; contains a hash of the record's nonce
    :param detail: other JSON data that the backend needs later; not part of the identity
    :param nonce: nonce of the record that the job belongs to. The callers of a hook set it. Empty in a handle
        that an earlier version has stored, outside of a record
    :param instance: what the service gave to this job, and gives to no later job of the same name: a uid, a
        time of creation. Empty if the service has no such thing, or did not tell it yet
    """

    backend: str
    conn_id: str | None
    scope: str
    id: str
    name: str
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)
    nonce: str = field(default="", compare=False)
    instance: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "detail": dict(self.detail)}

    @classmethod
    def from_json(cls, data: Any) -> JobHandle:
        """Return the handle that :meth:`to_json` wrote.

        :raises IntegrityError: ``data`` is not a handle, or is damaged
        """
        return cls(**checked_fields(data, "a job's handle", _HANDLE_FIELDS, _HANDLE_OPTIONAL))

    def __str__(self) -> str:
        return f"{self.backend} job {self.id}"


_HANDLE_FIELDS = {"backend": TEXT, "conn_id": or_nothing(TEXT), "scope": TEXT, "id": TEXT, "name": TEXT}
_HANDLE_OPTIONAL = {"detail": OBJECT, "nonce": TEXT, "instance": TEXT}


@dataclass(frozen=True)
class FoundJob:
    """A job of this package in a listing of its service.

    :param handle: gets its nonce from the labels
    :param labels: every label of the request, unchanged, because ``sweep`` compares them with the records
    :param created_at: when the job was submitted, in seconds since the epoch
    """

    handle: JobHandle
    labels: Mapping[str, str] = field(compare=False)
    created_at: float = field(compare=False)

    def __post_init__(self) -> None:
        bound = replace(self.handle, nonce=self.labels.get("nonce", ""))
        object.__setattr__(self, "handle", bound)  # the class is frozen for its users


@dataclass(frozen=True)
class Leftover:
    """The staged input of one job, or the checkpoints of one task instance, outside of the stores.

    :param path: the path that ``stores.paths.job_path`` has returned for the job, or ``checkpoint_path`` for
        the task instance
    :param count: number of its files
    :param size: their total size in bytes
    :param modified_at: time of the last write, in seconds since the epoch
    :param delete: deletes the folder; a folder that is gone is no error
    """

    path: str
    count: int
    size: int
    modified_at: float
    delete: Callable[[], None] = field(repr=False, compare=False)


@dataclass(frozen=True)
class JobStatus:
    """The status of a job at one moment.

    :param failure: set when the service itself knows why the job ended (memory, deadline, image, preemption).
        A failure of the user's code comes from the outcome instead
    :param native: the service's own word for the state, or for its reason: ``Unschedulable``
    :param message: what the service says about the state, for people: ``0/3 nodes are available``. The task's
        log shows the message of a job that is not terminal
    :param started_at: when the step's process started, in seconds since the epoch
    :param finished_at: when the step's process ended, in seconds since the epoch
    :param waits_since: for a job that the service has stopped and will start again: since when the job has
        been waiting, in seconds since the epoch. ``start_timeout`` counts from then
    :param usage: measurements of the service (``wall_s``, ``cpu_s``, ``peak_memory_bytes``,
        ``peak_gpu_memory_bytes``), used if the runner was killed before it could report its own. Other fields
        are the service's own numbers and short texts, such as ``billable_s``: they reach the usage line and
        the XCom ``usage`` as they are. Not part of the identity
    """

    state: JobState
    failure: Failure | None = None
    native: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    waits_since: float | None = None
    message: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def description(self) -> str:
        """The service's word and its message, for people."""
        return ": ".join(text for text in (self.native, self.message) if text)

    def to_json(self) -> dict[str, Any]:
        """Return what is remembered of the end of a job; ``message`` and ``usage`` are left out."""
        return {
            "state": self.state.value,
            "failure": self.failure.to_json() if self.failure is not None else None,
            "native": self.native,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }

    @classmethod
    def from_json(cls, data: Any) -> JobStatus:
        """Return the end that :meth:`to_json` wrote.

        :raises IntegrityError: ``data`` is not such an end, or is damaged
        """
        known = checked_fields(data, "a job's end", {"state": TEXT}, _STATUS_FIELDS)
        ends = {state.value: state for state in JobState if state.is_end}
        if known["state"] not in ends:
            text = known["state"][:80]
            raise IntegrityError(
                f"a job's end has state={text!r}, which is not one of {', '.join(ends)}; "
                "a newer airflow-stepop may have written it"
            )
        known["state"] = ends[known["state"]]
        if known.get("failure") is not None:
            known["failure"] = Failure.from_json(known["failure"])
        return cls(**known)


_STATUS_FIELDS = {
    "failure": or_nothing(OBJECT),
    "native": TEXT,
    "started_at": or_nothing(NUMBER),
    "finished_at": or_nothing(NUMBER),
}


LogLevel = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True)
class LogLine:
    """One line that the step printed, without the line end.

    A hook makes the lines with :meth:`printed`, which finds the level.

    :param time: in seconds since the epoch
    :param level: the level of a record of Python's ``logging``; of every other line ``info``
    """

    time: float
    text: str
    level: LogLevel = "info"

    @classmethod
    def printed(cls, time: float, text: str) -> list[LogLine]:
        """Return a line of the step's output as one log line, or as two.

        If the step has printed text without a line end before a record of ``logging``, then the text and the
        record are on the same line. The step can forge a level, and nothing else.
        """
        before, mark, record = text.partition(LEVEL_MARK)
        level = _LEVELS.get(record.partition(":")[0]) if mark else None
        if level is None:
            return [cls(time, text)]
        return [*([cls(time, before)] if before else []), cls(time, record, level)]


_LEVELS: dict[str, LogLevel] = {
    "DEBUG": "debug",
    "INFO": "info",
    "WARNING": "warning",
    "ERROR": "error",
    "CRITICAL": "critical",
}


# Position in a log. Only the backend reads it; it is stored as JSON. None: from the beginning
Cursor = str | None


@dataclass(frozen=True)
class LogChunk:
    """New log lines in the order in which the step wrote them, and the cursor behind the last one.

    :param receipt: the runner's receipt, if it is a line of this part of the log: see
        :func:`~airflow_stepop.hooks.common.receipts.receipt_text`. Such a chunk may have no lines
    """

    lines: Sequence[LogLine]
    cursor: Cursor
    receipt: str | None = None


@dataclass(frozen=True)
class StepSpec:
    """The description of one job, without the payload. ``render`` makes the native request from it alone.

    :param name: the job's name: unique per generation, 1 to 52 characters of ``[a-z0-9-]``, begins with a
        letter
    :param nonce: random id of this generation; also in the step's environment and in the labels
    :param labels: deployment, dag_id, run_id, task_id, map_index and nonce; ``find`` finds jobs by them
    :param digest: SHA-256 of the manifest; part of the job request itself
    :param resources: the resources that the step asks for
    :param settings: the backend's own options, validated by its ``settings_model``
    :param image: container image of the step; ``None`` means the backend's default
    :param env: the user's environment variables for the step
    :param timeout_s: longest run time in seconds; the backend enforces it, even while Airflow is down
    :param start_timeout_s: longest time in PENDING, in seconds; enforced by the worker or the trigger that
        waits for the job
    :param result_uri: folder in the store for segments of the outcome that are too large for the outcome
    :param checkpoint_uri: folder in the store for checkpoints, which the next job of the same task finds
        again; empty if the step has no checkpoints
    :param alternative: index of the kind of machine to ask for, see ``BackendSettings.alternatives``
    :param is_overridden: the task was written for another backend (``[stepop] backend_override``). This
        backend only warns about options that it cannot honour, instead of raising an error
    """

    name: str
    nonce: str
    labels: Mapping[str, str]
    digest: str = ""
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    settings: Any = None
    image: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 86400.0
    start_timeout_s: float | None = None
    result_uri: str = ""
    checkpoint_uri: str = ""
    is_overridden: bool = False
    alternative: int = 0


@dataclass(frozen=True)
class ObjectRange:
    """``size`` bytes of one object in a store, beginning at ``offset``; ``None`` means the whole object."""

    uri: str
    size: int
    offset: int | None = None


@dataclass(frozen=True)
class Part:
    """One named blob of the payload, either in memory (``buffers``) or already in the store (``ranges``).

    Several buffers or ranges are joined in their order.

    :param size: of the whole blob, in bytes
    """

    sha256: str
    size: int
    buffers: Sequence[Buffer] | None = None
    ranges: Sequence[ObjectRange] = ()

    @property
    def data(self) -> bytes | None:
        """A copy of the bytes in memory; ``None`` when they are in the store."""
        return None if self.buffers is None else b"".join(self.buffers)


@dataclass(frozen=True)
class Payload:
    """The input of a step: the manifest, its digest, and the parts that the manifest names.

    ``hooks.base.input_files`` turns a payload into the files of the runner's input folder. Some of these
    files contain secrets. A backend must put them where only the step can read them. They must never be in
    the request that a backend renders, in a log, in a command line, or unencrypted in a store.

    :param digest: SHA-256 of the manifest
    :param secrets: secret environment variables of the step, by name; the manifest contains only the names
    :param features: optional modules that the runner needs for this step; an argument of ``runner_zipapp``
    """

    manifest: bytes
    digest: str
    parts: Mapping[str, Part] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    features: frozenset[str] = frozenset()

    @property
    def inline_bytes(self) -> int:
        """Number of bytes that the job request must carry."""
        inline = sum(part.size for part in self.parts.values() if part.buffers is not None)
        return len(self.manifest) + inline + (len(self.secrets_file) if self.secrets else 0)

    @property
    def secrets_file(self) -> bytes:
        """The content of ``secrets.json``."""
        return json.dumps(dict(self.secrets)).encode()


@dataclass(frozen=True)
class OutcomeReport:
    """The outcome as a backend found it. The caller must check ``data`` against ``digest`` before using it.

    :param digest: SHA-256 of ``data`` as the service's control plane reported it. ``None`` when every channel
        of the service can be forged by a process with access to the step's storage; then only data codecs are
        read, and no pickles
    :param data: the bytes of outcome.json
    :param base_uri: folder in the store with the segments that ``data`` names
    :param missing: why there is no digest, and what would change that; for people
    :param usage: what belongs to the usage and is known with the outcome only, such as ``model_uri``
    """

    digest: str | None
    data: bytes
    base_uri: str
    missing: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of ``airflow stepop check``.

    :param is_ok: whether the check passed
    :param subject: the part that was checked
    :param message: the result of the check
    :param fix: the advice to the user; empty if there is nothing to do
    """

    is_ok: bool
    subject: str
    message: str
    fix: str = ""
