"""What Airflow and a backend say to each other about a step: plain, frozen, JSON-able data.

No vendor word and no I/O lives here. ``to_json`` and ``from_json`` are inverse to each other; ``from_json``
leaves out what a newer version added, and refuses what was never written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.stored_json import OBJECT, TEXT, known_fields, or_nothing
from airflow_stepop.resources import ResourceSettings

if TYPE_CHECKING:
    from airflow_stepop.failure import Failure

Buffer = bytes | bytearray | memoryview


class JobState(StrEnum):
    """Where a job stands. Every native state of a service maps to one of these."""

    PENDING = "pending"  # accepted; the step's process has not begun
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"  # the service does not know this job (any more); never used for an error of the API

    @property
    def is_terminal(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True)
class JobHandle:
    """Small JSON that finds the job again from any process.

    :param backend: registered name of the backend
    :param conn_id: Airflow connection that reaches it
    :param scope: what one status call covers: a host, a cluster and namespace, a region and account
    :param id: the service's own id; unique within ``scope``
    :param name: the name that we gave the job, derived from the record's nonce
    :param detail: anything else that the backend wants to remember (JSON); not part of the identity
    """

    backend: str
    conn_id: str | None
    scope: str
    id: str
    name: str
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "detail": dict(self.detail)}

    @classmethod
    def from_json(cls, data: Any) -> JobHandle:
        """Return the handle.

        :raises IntegrityError: this is none
        """
        return cls(**known_fields(data, "a job's handle", _HANDLE_FIELDS, {"detail": OBJECT}))

    def __str__(self) -> str:
        return f"{self.backend} job {self.id}"


_HANDLE_FIELDS = {"backend": TEXT, "conn_id": or_nothing(TEXT), "scope": TEXT, "id": TEXT, "name": TEXT}


@dataclass(frozen=True)
class FoundJob:
    """A job of ours as its service lists it.

    :param labels: every label that it was submitted with, unchanged: ``sweep`` compares them with the records
    :param created_at: when it was submitted, seconds since the epoch
    """

    handle: JobHandle
    labels: Mapping[str, str] = field(compare=False)
    created_at: float = field(compare=False)


@dataclass(frozen=True)
class JobStatus:
    """One look at a job.

    :param failure: set when the service itself knows why the job ended (memory, deadline, image, preemption).
        A failure of the user's code comes from the outcome instead.
    :param native: the service's own word for the state, or its reason: ``Unschedulable``
    :param message: what the service says about it, for people: ``0/3 nodes are available``. The task's log
        tells it of a job that is not over
    :param started_at: when the step's process began, seconds since the epoch
    :param finished_at: when it ended, seconds since the epoch
    :param waits_since: of one whose service has stopped it and will start it again: since when it waits,
        seconds since the epoch
    :param usage: what the service itself measured (``wall_s``, ``cpu_s``, ``peak_memory_bytes``,
        ``peak_gpu_memory_bytes``); counts where the runner was killed before it could say. Not part of the
        identity
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


@dataclass(frozen=True)
class LogLine:
    """One line that the step printed, without its line end; ``time`` in seconds since the epoch."""

    time: float
    text: str


Cursor = str | None  # opaque, JSON-able; None: from the beginning


@dataclass(frozen=True)
class LogChunk:
    """New log lines in the order in which the step wrote them, and the cursor that continues after them."""

    lines: Sequence[LogLine]
    cursor: Cursor


@dataclass(frozen=True)
class StepSpec:
    """Everything but the payload that a backend needs to know about one job. Pure data: ``render`` needs no
    more.

    :param name: the job's name: unique per generation, 1 to 52 characters of ``[a-z0-9-]``, begins with a
        letter
    :param nonce: random id of this generation; in the step's environment and in the labels
    :param digest: SHA-256 of the manifest; it travels in the job request itself
    :param labels: deployment, dag_id, run_id, task_id, map_index, nonce: by which ``find`` finds our jobs
    :param settings: the backend's own options, validated by its ``settings_model``
    :param env: the user's environment variables for the step
    :param timeout_s: longest run time; the backend enforces it even when Airflow is dead
    :param start_timeout_s: longest time in PENDING; enforced by whoever waits for the job
    :param result_uri: folder in the store for segments of the outcome that do not fit inline
    :param checkpoint_uri: folder in the store that the next job of the same task finds again, if it wants one
    :param is_overridden: written for another backend (``[stepop] backend_override``): what this one cannot
        honour is a warning and not an error
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


@dataclass(frozen=True)
class Place:
    """Bytes of one object in a store, from ``offset`` on; without one, all of the object."""

    uri: str
    size: int
    offset: int | None = None


@dataclass(frozen=True)
class Part:
    """One named blob of the payload: in memory (``buffers``, in a row), or already in the store (``places``,
    in a row).
    """

    sha256: str
    size: int
    buffers: Sequence[Buffer] | None = None
    places: Sequence[Place] = ()

    @property
    def data(self) -> bytes | None:
        """The bytes in memory, copied into one; ``None`` when they are in the store."""
        return None if self.buffers is None else b"".join(self.buffers)


@dataclass(frozen=True)
class Payload:
    """What goes into the step: the manifest, its digest, and the parts that it names.

    ``hooks.base.input_files`` turns it into the files of the runner's input folder. Some of them hold
    secrets: they belong where nobody but the step can read them, and never into the request that a backend
    renders, a log, a command line, or a store in clear.

    :param secrets: environment variables of the step, by name; the manifest has the names alone
    :param features: what the runner must bring for this step; for ``runner_zipapp``
    """

    manifest: bytes
    digest: str
    parts: Mapping[str, Part] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    features: frozenset[str] = frozenset()

    @property
    def inline_bytes(self) -> int:
        """Bytes that must travel with the job request."""
        inline = sum(part.size for part in self.parts.values() if part.buffers is not None)
        return len(self.manifest) + inline + (len(self.secrets_file) if self.secrets else 0)

    @property
    def secrets_file(self) -> bytes:
        """The bytes of ``secrets.json``."""
        return json.dumps(dict(self.secrets)).encode()


@dataclass(frozen=True)
class OutcomeReport:
    """The outcome as a backend found it. The caller checks ``data`` against ``digest`` before it believes it.

    :param digest: SHA-256 of ``data`` as the service's control plane reported it; ``None`` when the service
        has no channel that the step's storage cannot forge: then only data codecs are read
    :param data: the bytes of outcome.json
    :param base_uri: folder in the store that holds the segments which ``data`` names
    """

    digest: str | None
    data: bytes
    base_uri: str


@dataclass(frozen=True)
class Finding:
    """One line of ``check``: what was looked at, whether it works, and what to do."""

    is_ok: bool
    subject: str
    message: str
    fix: str = ""
