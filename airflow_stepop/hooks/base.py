"""The contract between airflow-stepop and a backend: :class:`StepHook`, the base class of every hook.

**Purpose:** A backend is one subclass of :class:`StepHook`. There is no layer between the hook and its
callers: the worker, the trigger and the command line call the hook's methods.

**How it works:** Every method may block, because the callers run it in a thread. Any process may call a
method, on any host that can reach the service. So a hook keeps no state that another process needs.
``airflow_stepop.testing.HookContract`` tests these promises.

The author of a backend imports everything that a hook needs from this module. The names in :data:`__all__`
are stable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from airflow.sdk import BaseHook
from typing_extensions import TypeVar

from airflow_stepop.core.stored_json import checked_fields
from airflow_stepop.exceptions import WrongHostError
from airflow_stepop.hooks.common import pieces
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble
from airflow_stepop.hooks.settings import BackendSettings, parse_settings
from airflow_stepop.job import LogChunk

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.core.stored_json import FieldType
    from airflow_stepop.hooks.common.machines import Machines
    from airflow_stepop.hooks.common.pieces import *  # noqa: F403 - for callers of this module; pieces.__all__
    from airflow_stepop.hooks.common.state_table import StateTable
    from airflow_stepop.job import (
        Cursor,
        Finding,
        FoundJob,
        JobHandle,
        JobStatus,
        Leftover,
        LogLine,
        OutcomeReport,
        Payload,
        StepSpec,
    )

__all__ = ["ApiError", "BackendSettings", "StepHook", "Trouble"]
__all__ += pieces.__all__

S_co = TypeVar("S_co", bound=BackendSettings, default=BackendSettings, covariant=True)

# Class attributes of Airflow's hooks. Some resemble a name of StepHook and are not misspelt
_NAMES_OF_AIRFLOW = frozenset({"conn_name_attr", "conn_type", "default_conn_name", "hook_name"})


class StepHook(BaseHook, ABC, Generic[S_co]):
    """Base class of a backend's hook. A backend with own settings derives from ``StepHook[NomadSettings]``.

    Python raises ``TypeError`` when it creates a subclass with a misspelt name: a public attribute that
    resembles a name of this class and is not one. A backend's own helpers need clearly different names, or
    names that begin with an underscore.

    :param conn_id: id of the Airflow connection; ``None`` for a backend that needs no connection
    :param connection: the connection itself, if the caller has it. A triggerer passes it, because a triggerer
        must not look connections up
    """

    backend: ClassVar[str]
    """Registered name: one lower-case word."""
    settings_model: ClassVar[type[BackendSettings]] = BackendSettings
    default_conn_id: ClassVar[str | None] = None
    """Id of the connection that a step uses when the task names none and a connection with this id exists."""
    sample_image: ClassVar[str | None] = None
    """An image for the check of a connection that has none, if the backend cannot render a step without."""
    inline_limit: ClassVar[int]
    """Largest payload, in bytes, that the job request can carry. 0: every step needs a store."""
    store_scheme: ClassVar[str] = ""
    """Scheme of the stores that the jobs of this service can reach, for example ``s3``. If a step has no
    store and ``[stepop] store`` is not set, the first of ``[stepop] extra_stores`` with this scheme is used.
    """
    is_host_bound: ClassVar[bool] = False
    """Whether only the host that started a job can see it: the worker waits, unless ``deferrable=True``."""
    poll_interval_s: ClassVar[float] = 1.5
    """Default for the seconds between two polls of all jobs of one scope."""
    stop_limit_s: ClassVar[float] = 180.0
    """Longest time in seconds from a cancel to the end of the job. No other job of the step starts before."""
    state_table: ClassVar[StateTable | None] = None
    """Table from native states to :class:`~airflow_stepop.job.JobState`, for a service that reports a state
    as one word. The table is total: see :class:`StateTable`.
    """
    log_reads_per_second: ClassVar[int | None] = None
    """Maximum number of jobs whose logs a triggerer reads per second, for a service where each read costs a
    request. ``None``: no limit.
    """
    secret_services: ClassVar[frozenset[str]] = frozenset()
    """Services from which a job can read secrets itself: values of ``runner/secret_references.py``."""
    endpoint_names: ClassVar[tuple[str, ...]] = ()
    """Services whose addresses a connection may set with the key ``endpoints``: see :attr:`endpoints`."""

    _is_without_default = False  # True: no connection has the id `default_conn_id`

    def __init__(self, conn_id: str | None = None, connection: Connection | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self._connection = connection

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        names = {*vars(StepHook), *StepHook.__annotations__} - {"connection"}  # a backend never overrides it
        known = [name for name in names if not name.startswith("_")]
        for name in vars(cls):
            is_own = name.startswith("_") or name in _NAMES_OF_AIRFLOW
            if is_own or name in names or hasattr(StepHook, name):
                continue
            if close := get_close_matches(name, known, n=1, cutoff=0.8):
                raise TypeError(
                    f"{cls.__name__}.{name} is not a name of StepHook; did you mean {close[0]!r}? For a "
                    f"helper of your own, use another name, for example _{name}"
                )

    @property
    def connection(self) -> Connection | None:
        """The Airflow connection, looked up once; ``None`` if the hook works without a connection.

        :raises AirflowNotFoundException: no connection has the id ``conn_id``
        """
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
        """Addresses from the connection that replace the service's own: service name -> address."""
        from airflow_stepop.connections.defaults import read_defaults

        connection = self.connection
        return read_defaults(connection).endpoints if connection is not None else {}

    @property
    def used_conn_id(self) -> str | None:
        """Connection id for the handle: the step's connection, else the default connection if it exists."""
        if self.conn_id is not None or self.default_conn_id is None:
            return self.conn_id
        return self.default_conn_id if self.connection is not None else None

    # -- helpers for subclasses

    def settings_of(self, spec: StepSpec) -> S_co:
        """Return the settings of a step as this backend's model; not those of a backend that was overridden.

        :raises StepConfigError: the settings have an unknown key, or a value of the wrong type
        """
        settings = spec.settings
        if spec.is_overridden and not isinstance(settings, self.settings_model):
            settings = None
        found = parse_settings(self.settings_model, settings, self.backend)
        return cast("S_co", found.at_alternative(spec.alternative))

    def handle_detail(
        self,
        handle: JobHandle,
        required: Mapping[str, FieldType],
        optional: Mapping[str, FieldType] | None = None,
    ) -> dict[str, Any]:
        """Return the known fields of a handle's ``detail``.

        :param required: field name -> type, for the fields that must be there
        :param optional: field name -> type, for the fields that may be missing
        :raises IntegrityError: a required field is missing, or a field has the wrong type: the handle is
            damaged
        """
        return checked_fields(handle.detail, f"the handle of a {self.backend} job", required, optional)

    def check_scope(self, handle: JobHandle, scope: str | None = None) -> None:
        """Check that this hook can see a job. Without the check, a job of another scope would count as GONE.

        :param scope: scope of this hook; by default :meth:`scope`
        :raises WrongHostError: the job was submitted in another scope
        """
        here = self.scope() if scope is None else scope
        if handle.scope != here:
            raise WrongHostError(self.wrong_scope.format(handle=handle, scope=handle.scope, here=here))

    wrong_scope: ClassVar[str] = (
        "{handle} was submitted to {scope}, and the connection now points to {here}; "
        "point the connection to {scope} again"
    )
    """Message of :class:`WrongHostError`, with the fields ``handle``, ``scope`` and ``here``."""

    # -- the methods of a backend

    @abstractmethod
    def render(self, spec: StepSpec) -> dict[str, Any]:
        """Return the exact native request for ``spec``, as JSON.

        The method is pure: it does no I/O, and returns the same request for the same spec.

        :raises UnsupportedError: the spec asks for a resource or option that this backend cannot honour. The
            message names a value that would work
        """

    @abstractmethod
    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        """Start the job, or complete an unfinished submit of an earlier call with the same name.

        Idempotent: after the method has returned, the job exists exactly once, also if several processes call
        the method several times. After an error, the next call with the same spec continues, and
        :meth:`lookup` finds a job that was created.

        :raises QuotaError: a quota has no room for another job now. The caller submits again after a pause
        """

    @abstractmethod
    def lookup(self, spec: StepSpec) -> JobHandle | None:
        """Return the job named ``spec.name`` with ``spec.nonce``, or ``None`` if the service has no such job.

        The worker calls this method after a crash, when it does not know whether its submit succeeded. The
        record then holds a part of the spec only: ``name``, ``nonce``, ``labels`` and the settings that
        ``settings_model.location_fields`` names. The other fields are not set.
        """

    @abstractmethod
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of every handle, with one or a few requests for all of them.

        A job that is not there, or whose name another job has now, is ``GONE``. A terminal state stays: only
        ``GONE`` may follow. A step that was seen as succeeded is never run again by itself.

        :raises Exception: the SDK's own exception after an API error. An API error is never a job state
        :raises WrongHostError: this host or connection cannot see the jobs; another call cannot help
        :raises IntegrityError: a handle is damaged. The caller then asks for each job alone
        """

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        """Return the status of one job, read from the service now and not from a cache.

        The trigger calls this method before it ends a job that has passed a deadline. The errors are those of
        :meth:`status`.
        """
        return self.status([handle])[handle]

    @abstractmethod
    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        """Return the log lines after each cursor.

        A call returns a limited number of bytes per job. The result may leave out a job without new lines.
        If the receipt is a line of the log, the chunk with that line also has the receipt.
        """

    def chunks(self, handle: JobHandle, since: Cursor = None) -> Iterator[LogChunk]:
        """Yield the log lines after a cursor, chunk by chunk, until the log has no new lines."""
        while (chunk := self.logs({handle: since}).get(handle)) is not None and (
            chunk.lines or chunk.receipt
        ):
            yield chunk
            since = chunk.cursor

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        """Return the last ``count`` lines after the cursor ``since``, and the cursor at the end of the log.

        This implementation reads the whole log. Override it if the service can read a log from its end.
        """
        last: deque[LogLine] = deque(maxlen=count)
        receipt = None
        for chunk in self.chunks(handle, since):
            last.extend(chunk.lines)
            since, receipt = chunk.cursor, chunk.receipt or receipt
        return LogChunk(list(last), since, receipt)

    @abstractmethod
    def outcome(self, handle: JobHandle) -> OutcomeReport:
        """Return the outcome of a terminal job.

        :raises OutcomeLostError: the job ended without an outcome, or its outcome is gone
        :raises OutcomeNotReadyError: the outcome may come a little after the job's end. The caller asks again
            until 15 minutes after the end
        """

    def preserve_outcome(self, handle: JobHandle) -> None:
        """Copy what is lost with a terminal job's machine (state, receipt, outcome) to the control plane.

        The trigger, or a worker that waits itself, calls this method when it notices the job's end, perhaps
        more than once. A worker reads the outcome later, and the machine may be gone by then. The inherited
        method does nothing: that is right for a service that keeps receipt and outcome by itself.
        """

    @abstractmethod
    def cancel(self, handle: JobHandle) -> None:
        """Ask the service to stop the job, and return without waiting for its end.

        Idempotent. A job that has ended or is gone is not an error.
        """

    @abstractmethod
    def delete(self, handle: JobHandle) -> None:
        """Remove everything that a terminal job leaves behind at the service. Idempotent."""

    def delete_secrets(self, handle: JobHandle) -> None:
        """Remove the secret files of a job's input that outlive the job, for example in a bucket. Idempotent.

        The task calls this method when the job has ended and is kept, and ``airflow stepop sweep`` for an
        ended job that no task waits for. Where :meth:`delete` is called, it removes these files, too. The
        inherited method does nothing: that is right for a backend that has no such files.
        """

    def leftovers(self) -> Iterable[Leftover]:
        """Return the staged input and the checkpoints that lie outside of the stores, such as in a volume.

        ``airflow stepop gc`` deletes what no job needs any more. The inherited method returns nothing: that
        is right for a backend that stages into a store, or leaves nothing behind.
        """
        return ()

    @abstractmethod
    def find(self, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        """Return every job of this provider that has all of ``labels``, running or finished.

        Each job comes with all of its labels as they were submitted. For a service that limits the characters
        of a label, the backend keeps the original labels elsewhere at the job.
        """

    def find_for(self, settings: BackendSettings, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        """Return the jobs of :meth:`find` in the place that ``settings`` name; none if ``find`` looks there.

        ``airflow stepop jobs`` and ``sweep`` ask so in each place that a record names.
        """
        return ()

    def location_of(self, handle: JobHandle) -> Mapping[str, object]:
        """Return the settings, out of ``location_fields``, that lead to the place of a job."""
        return {}

    @abstractmethod
    def check(self) -> Iterable[Finding]:
        """Return findings: what works, what is missing, and how to correct it."""

    def check_for(self, settings: BackendSettings) -> Iterable[Finding]:
        """Return the findings for steps with these settings. By default, the settings make no difference.

        A backend overrides this method if its settings say where a job runs, for example in which namespace.
        """
        return self.check()

    def machines(self) -> Machines | None:
        """Return the service's machine types; ``None`` for a service whose jobs name no machine type.

        ``airflow stepop describe BACKEND --fit`` shows those that fit a step. This method sends no request.
        """
        return None

    def api_error(self, error: Exception) -> ApiError:
        """Classify an exception of the service's SDK. This method sends no request.

        :attr:`Trouble.TRANSIENT` is for an API that is unavailable, restarting or busy (429, 5xx), and for a
            lost network connection. The worker retries such a call for up to ten minutes. A request that can
            never succeed is not transient.
        """
        return ApiError(Trouble.OTHER, str(error))

    def is_transient(self, error: Exception) -> bool:
        """Return whether the worker retries a call after this error. :meth:`api_error` decides."""
        return self.api_error(error).kind is Trouble.TRANSIENT

    def link(self, handle: JobHandle) -> str | None:
        """Return the URL of the job's page in the service's console; ``None`` if there is no page."""
        return None

    def changed_jobs(self) -> Collection[JobHandle] | None:
        """Return the jobs whose status may have changed since the last call; ``None`` if no watch runs now.

        This method sends no request. Between two polls of all jobs, the watcher polls the changed jobs only.
        """
        return None

    def scope(self) -> str:
        """Return the name of the host, cluster or region whose jobs one :meth:`status` call can cover.

        All jobs of one scope share one watcher.
        """
        return ""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in pieces.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(pieces, name)
