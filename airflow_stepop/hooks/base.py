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
    """Seconds between two looks at all jobs of one scope, unless the user says otherwise."""

    logs_a_second: ClassVar[int | None] = None
    """Jobs whose logs a triggerer reads in a second, where each costs a request; ``None``: all of them."""

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

        Only ``name``, ``nonce`` and ``labels`` of the spec are set, and those settings that say ``where``:
        after a crash nothing else is known.
        """

    @abstractmethod
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of every handle, in one or few calls for all of them.

        A job that the service does not know is ``GONE``.

        :raises Exception: whatever went wrong with the API. An API error is never a job state.
        :raises WrongHostError: these jobs cannot be seen from here; asking again cannot help
        :raises IntegrityError: a handle is damaged; the caller asks for each alone
        """

    def look(self, handle: JobHandle) -> JobStatus:
        """Return how one job stands now, by the service's own word and from no memory.

        Asked for before a job is ended that seems to be late; raises as :meth:`status` does.
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

    def secure(self, handle: JobHandle) -> None:
        """Have the service hold on to what the machine of a terminal job takes along when it goes.

        Called by who has noticed the end, since nobody knows when a worker will be free to read the outcome.
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

    def is_passing(self, error: Exception) -> bool:
        """Return whether the same call may succeed in a moment: a worker then waits, and asks again."""
        return False

    def link(self, handle: JobHandle) -> str | None:
        """Return the job's page in the service's console."""
        return None

    def changed(self) -> Collection[JobHandle] | None:
        """Return the jobs whose state may have changed since the last call, without a request; ``None`` when
        the service tells of nothing by itself now.

        Between two questions for all jobs, those that have changed are asked for alone.
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
