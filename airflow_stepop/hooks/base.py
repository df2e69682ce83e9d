"""The contract between airflow-stepop and a backend. Subclass :class:`StepHook` and pass ``HookContract``.

The hook *is* the backend: there is no second layer. Every verb may block (callers run it in a thread) and may
be called from any process on any host that the connection reaches; a hook keeps no state that another process
needs.

What an author needs beside the hook can be imported from here, too: :data:`__all__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook

from airflow_stepop.hooks.settings import BackendSettings
from airflow_stepop.job import LogChunk

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.hooks.common.input_files import input_files
    from airflow_stepop.hooks.common.zipapp import runner_zipapp
    from airflow_stepop.job import (
        Cursor,
        Finding,
        FoundJob,
        JobHandle,
        JobStatus,
        LogLine,
        OutcomeReport,
        Payload,
        StepSpec,
    )
    from airflow_stepop.stores.folder import folder_of

__all__ = ["BackendSettings", "StepHook", "folder_of", "input_files", "runner_zipapp"]

# Loaded by the hooks that use them, and not by every trigger
_LAZY = {
    "folder_of": "airflow_stepop.stores.folder",
    "input_files": "airflow_stepop.hooks.common.input_files",
    "runner_zipapp": "airflow_stepop.hooks.common.zipapp",
}


class StepHook(BaseHook, ABC):
    """One backend.

    :param conn_id: Airflow connection; ``None`` for a backend that needs none
    :param connection: that connection when the caller has it already (a triggerer must not look it up again)
    """

    backend: ClassVar[str]
    """Registered name: one lower-case word."""
    settings_model: ClassVar[type[BackendSettings]] = BackendSettings
    inline_limit: ClassVar[int]
    """Bytes of payload that travel inside the job request; 0: a store is needed for every step."""
    is_host_bound: ClassVar[bool] = False
    """Jobs can be seen only from the host that started them: the worker waits unless told otherwise."""
    poll_interval_s: ClassVar[float] = 1.5
    """Seconds between two polls of all jobs of one scope, unless the user says otherwise."""
    log_reads_per_second: ClassVar[int | None] = None
    """Most jobs whose logs a triggerer reads per second, where each costs a request; ``None``: no limit."""

    default_conn_id: ClassVar[str | None] = None
    """Connection that the backend uses when a task names none and this one exists."""
    endpoint_names: ClassVar[tuple[str, ...]] = ()
    """Services whose addresses a connection may set (``endpoints`` of its ``stepop``); see :attr:`endpoints`.
    """

    def __init__(self, conn_id: str | None = None, connection: Connection | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self._connection = connection

    @property
    def connection(self) -> Connection | None:
        """The Airflow connection, looked up once; ``None`` when the backend was used without one."""
        if self._connection is None and self.conn_id is not None:
            self._connection = self.get_connection(self.conn_id)
        return self._connection

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The addresses that the connection gives instead of the service's own: name -> address."""
        from airflow_stepop.connections.defaults import read_defaults

        connection = self.connection
        return read_defaults(connection).endpoints if connection is not None else {}

    @abstractmethod
    def render(self, spec: StepSpec) -> dict[str, Any]:
        """Return the exact native request for ``spec``, as JSON. Pure: no I/O, same answer for the same spec.

        :raises UnsupportedError: a resource or option that this backend cannot honour; names one that would
            work
        """

    @abstractmethod
    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        """Start the job, or finish the start that an earlier call with the same name began.

        After it returned, the job exists exactly once, however often and from however many processes it was
        called. After it raised, the next call with the same spec carries on; ``lookup`` finds what there is.

        :raises QuotaError: the service takes no further job now; the caller comes back after a pause
        """

    @abstractmethod
    def lookup(self, spec: StepSpec) -> JobHandle | None:
        """Return the job of ``spec.name`` if a submit whose answer was lost has made one, else ``None``.

        Only ``name``, ``nonce``, ``labels`` and the settings of ``settings_model.location_fields`` are set in
        the spec: after a crash nothing else is known.
        """

    @abstractmethod
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of every handle, in one or few calls for all of them.

        A job that the service does not know is ``GONE``.

        :raises Exception: whatever went wrong with the API. An API error is never a job state.
        :raises WrongHostError: these jobs cannot be seen from here; asking again cannot help
        :raises IntegrityError: a handle is damaged; the caller asks for each alone
        """

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        """Return the status of one job, read from the service now and from no cache.

        The trigger calls it before it ends a job that seems to be late. Raises what :meth:`status` raises.
        """
        return self.status([handle])[handle]

    @abstractmethod
    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        """Return the lines since each cursor, bounded; a job with nothing new may be left out."""

    def chunks(self, handle: JobHandle, since: Cursor = None) -> Iterator[LogChunk]:
        """Yield the lines since a cursor, until there are no new ones."""
        while (chunk := self.logs({handle: since}).get(handle)) is not None and chunk.lines:
            yield chunk
            since = chunk.cursor

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        """Return the last ``count`` lines, none from before the cursor ``since``, and the cursor at the end.

        A service that can read a log from its end overrides this: here all of it goes by.
        """
        last: deque[LogLine] = deque(maxlen=count)
        for chunk in self.chunks(handle, since):
            last.extend(chunk.lines)
            since = chunk.cursor
        return LogChunk(list(last), since)

    @abstractmethod
    def outcome(self, handle: JobHandle) -> OutcomeReport:
        """Return the outcome of a terminal job.

        :raises OutcomeLostError: the job ended without leaving one
        """

    def preserve_outcome(self, handle: JobHandle) -> None:
        """Copy what is lost with the machine of a terminal job (receipt, outcome) to the control plane.

        The trigger calls it when it notices the end: it may take long until a worker is free to read the
        outcome. A service that keeps both by itself inherits this, which does nothing.
        """

    @abstractmethod
    def cancel(self, handle: JobHandle) -> None:
        """Ask the service to stop the job and return soon. Idempotent; finished or gone is not an error."""

    @abstractmethod
    def delete(self, handle: JobHandle) -> None:
        """Remove what a terminal job leaves behind at the service. Idempotent."""

    @abstractmethod
    def find(self, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        """Return every job of ours that carries all of ``labels``, finished or not.

        A service that takes only some characters in a label keeps the original elsewhere: what comes back
        here is what was submitted.
        """

    @abstractmethod
    def check(self) -> Iterable[Finding]:
        """Say what works, what is missing, and what to do about it."""

    def is_transient(self, error: Exception) -> bool:
        """Return whether an error of the service is transient, so that the worker repeats the same call."""
        return False

    def link(self, handle: JobHandle) -> str | None:
        """Return the job's page in the service's console."""
        return None

    def changed_jobs(self) -> Collection[JobHandle] | None:
        """Return the jobs whose status may have changed since the last call; ``None``: no watch runs now.

        It sends no request. Between two polls of all jobs, the watcher polls those that have changed alone.
        """
        return None

    def scope(self) -> str:
        """Return what one status call covers; jobs of one scope share one watcher."""
        return ""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LAZY[name]), name)
