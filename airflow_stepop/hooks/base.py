"""The contract between airflow-stepop and a backend. Subclass :class:`StepHook` and pass ``HookContract``.

The hook *is* the backend: there is no second layer. Every verb may block, since callers run it in a thread.
A verb may be called from any process on any host that the connection reaches, so a hook keeps no state that
another process needs.

An author imports from here what a hook needs besides (:data:`__all__`); these names stay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from airflow.sdk import BaseHook
from typing_extensions import TypeVar

from airflow_stepop.core.stored_json import checked_fields
from airflow_stepop.exceptions import WrongHostError
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble
from airflow_stepop.hooks.settings import BackendSettings, parse_settings
from airflow_stepop.job import LogChunk

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.core.stored_json import FieldType
    from airflow_stepop.hooks.common.api_errors import explained, or_none
    from airflow_stepop.hooks.common.checks import Check, run_checks
    from airflow_stepop.hooks.common.input_files import input_files
    from airflow_stepop.hooks.common.labels import LabelRules, matches
    from airflow_stepop.hooks.common.receipts import Receipt, find_receipt, parse_receipt, report
    from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
    from airflow_stepop.hooks.common.state_table import StateTable
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

# Loaded by the hooks that use them, and not by every trigger
_LAZY = {
    "Check": "airflow_stepop.hooks.common.checks",
    "LabelRules": "airflow_stepop.hooks.common.labels",
    "Receipt": "airflow_stepop.hooks.common.receipts",
    "StateTable": "airflow_stepop.hooks.common.state_table",
    "explained": "airflow_stepop.hooks.common.api_errors",
    "find_receipt": "airflow_stepop.hooks.common.receipts",
    "folder_of": "airflow_stepop.stores.folder",
    "input_files": "airflow_stepop.hooks.common.input_files",
    "matches": "airflow_stepop.hooks.common.labels",
    "or_none": "airflow_stepop.hooks.common.api_errors",
    "parse_receipt": "airflow_stepop.hooks.common.receipts",
    "report": "airflow_stepop.hooks.common.receipts",
    "run_checks": "airflow_stepop.hooks.common.checks",
    "runner_argv": "airflow_stepop.hooks.common.runner_command",
    "runner_zipapp": "airflow_stepop.hooks.common.zipapp",
    "step_env": "airflow_stepop.hooks.common.runner_command",
}

__all__ = [
    "ApiError",
    "BackendSettings",
    "Check",
    "LabelRules",
    "Receipt",
    "StateTable",
    "StepHook",
    "Trouble",
    "explained",
    "find_receipt",
    "folder_of",
    "input_files",
    "matches",
    "or_none",
    "parse_receipt",
    "report",
    "run_checks",
    "runner_argv",
    "runner_zipapp",
    "step_env",
]

S_co = TypeVar("S_co", bound=BackendSettings, default=BackendSettings, covariant=True)

# names that hooks of Airflow have besides; they resemble some of ours
_NAMES_OF_AIRFLOW = frozenset({"conn_name_attr", "conn_type", "default_conn_name", "hook_name"})


class StepHook(BaseHook, ABC, Generic[S_co]):
    """One backend; ``StepHook[NomadSettings]`` is one with settings of its own.

    A public attribute of a subclass whose name resembles one of this class is refused as misspelt when the
    class is made. A helper of the backend's own has another name, or begins with an underscore.

    :param conn_id: Airflow connection; ``None`` for a backend that needs none
    :param connection: that connection when the caller has it already (a triggerer must not look it up again)
    """

    backend: ClassVar[str]
    """Registered name: one lower-case word."""
    settings_model: ClassVar[type[BackendSettings]] = BackendSettings
    default_conn_id: ClassVar[str | None] = None
    """Connection of a step that names none, if there is one of that id."""
    inline_limit: ClassVar[int]
    """Bytes of payload that travel inside the job request; 0: a store is needed for every step."""
    is_host_bound: ClassVar[bool] = False
    """Jobs can be seen only from the host that started them: the worker waits unless told otherwise."""
    poll_interval_s: ClassVar[float] = 1.5
    """Seconds between two polls of all jobs of one scope, unless the user says otherwise."""
    state_table: ClassVar[StateTable | None] = None
    """Native state -> state, where one word of the service says it. It is total: see :class:`StateTable`."""
    log_reads_per_second: ClassVar[int | None] = None
    """Most jobs whose logs a triggerer reads per second, where each costs a request; ``None``: no limit."""

    endpoint_names: ClassVar[tuple[str, ...]] = ()
    """Services whose addresses a connection may set (``endpoints`` of its ``stepop``); see :attr:`endpoints`.
    """

    _is_without_default = False  # there is no connection of the id `default_conn_id`

    def __init__(self, conn_id: str | None = None, connection: Connection | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self._connection = connection

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        names = {*vars(StepHook), *StepHook.__annotations__} - {"connection"}  # which nobody overrides
        known = [name for name in names if not name.startswith("_")]
        for name in vars(cls):
            is_own = name.startswith("_") or name in _NAMES_OF_AIRFLOW
            if is_own or name in names or hasattr(StepHook, name):
                continue
            if close := get_close_matches(name, known, n=1, cutoff=0.8):
                raise TypeError(
                    f"{cls.__name__}.{name} is no part of a StepHook; did you mean {close[0]!r}? A helper of "
                    f"your own needs another name: _{name}, say"
                )

    @property
    def connection(self) -> Connection | None:
        """The Airflow connection, looked up once; ``None`` when the backend is used without one."""
        if self._connection is None and self.conn_id is not None:
            self._connection = self.get_connection(self.conn_id)
        elif self._connection is None and self.default_conn_id is not None and not self._is_without_default:
            from airflow.sdk.exceptions import AirflowNotFoundException

            try:
                self._connection = self.get_connection(self.default_conn_id)
            except AirflowNotFoundException:
                self._is_without_default = True
        return self._connection

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The addresses that the connection gives instead of the service's own: name -> address."""
        from airflow_stepop.connections.defaults import read_defaults

        connection = self.connection
        return read_defaults(connection).endpoints if connection is not None else {}

    @property
    def used_conn_id(self) -> str | None:
        """The connection that a handle names: that of the step, else the default one if it exists."""
        if self.conn_id is not None or self.default_conn_id is None:
            return self.conn_id
        return self.default_conn_id if self.connection is not None else None

    # -- what a hook uses of this class

    def settings_of(self, spec: StepSpec) -> S_co:
        """Return the settings of a step; those of the replaced backend do not count.

        :raises StepConfigError: an unknown key, or a value of the wrong kind
        """
        settings = spec.settings
        if spec.is_overridden and not isinstance(settings, self.settings_model):
            settings = None
        return cast("S_co", parse_settings(self.settings_model, settings, self.backend))

    def handle_detail(
        self,
        handle: JobHandle,
        required: Mapping[str, FieldType],
        optional: Mapping[str, FieldType] | None = None,
    ) -> dict[str, Any]:
        """Return the known fields of a handle's ``detail``.

        :raises IntegrityError: the handle is damaged
        """
        return checked_fields(handle.detail, f"the handle of a {self.backend} job", required, optional)

    def check_scope(self, handle: JobHandle, scope: str | None = None) -> None:
        """Check that a job is where this hook looks, so that no job is GONE that is elsewhere.

        :param scope: where the hook looks; by default :meth:`scope`
        :raises WrongHostError: the job was made in another scope
        """
        here = self.scope() if scope is None else scope
        if handle.scope != here:
            raise WrongHostError(self.wrong_scope.format(handle=handle, scope=handle.scope, here=here))

    wrong_scope: ClassVar[str] = (
        "{handle} was made in {scope}, and the connection leads to {here} now: have it lead there again"
    )
    """What to say of a job of another scope."""

    # -- what a backend has to have

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

    def api_error(self, error: Exception) -> ApiError:
        """Return what an exception of the service's SDK means. It sends no request.

        A worker repeats a call after :attr:`Trouble.TRANSIENT` for up to ten minutes: an API that is away,
        restarts or is busy (429, 5xx), and a network that is cut. A request that cannot succeed is none.
        """
        return ApiError(Trouble.OTHER, str(error))

    def is_transient(self, error: Exception) -> bool:
        """Return whether a worker repeats a call after this error; :meth:`api_error` decides."""
        return self.api_error(error).kind is Trouble.TRANSIENT

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
