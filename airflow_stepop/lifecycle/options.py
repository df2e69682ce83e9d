"""The options of one step: the task's arguments, and else the defaults of its connection.

``lifecycle/request.py`` uses this module when a step runs. ``airflow stepop check`` and ``describe`` use it
without a task.

The first value that is given counts, in this order: the task's argument or its ``default_args``, the key
``stepop`` in the connection's extra, the section ``[stepop]`` of Airflow's configuration, the backend's
default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk.configuration import conf

from airflow_stepop.connections.defaults import KEY, ConnectionDefaults, read_defaults
from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.units import LONGEST_S, seconds
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.settings import BackendSettings, in_snake_case, parse_settings
from airflow_stepop.registry import hook_class
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.leftovers import GRACE_S
from airflow_stepop.stores.configured import step_store, store_of

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Connection

    from airflow_stepop.stores.base import Store

DEFAULT_KEEP = "failed"
MAX_RESUBMISSIONS = 10
# The defaults that go into the backend's request. If the backend refuses the request, they may be the cause
_RENDERED = ("image", "settings", "resource_settings", "timeout", "start_timeout")


class TaskOptions(Protocol):
    """The arguments of a task that a connection may give instead.

    ``secrets`` cannot come from a connection. A secret hides a variable of the connection with the same name.
    """

    @property
    def resource_settings(self) -> ResourceSettings | Mapping[str, object] | None: ...

    @property
    def settings(self) -> BackendSettings | Mapping[str, object] | None: ...

    @property
    def image(self) -> str | None: ...

    @property
    def env(self) -> Mapping[str, str] | None: ...

    @property
    def secrets(self) -> Mapping[str, str] | None: ...

    @property
    def timeout(self) -> timedelta | float | None: ...

    @property
    def start_timeout(self) -> timedelta | float | None: ...

    @property
    def store(self) -> str | None: ...

    @property
    def deferrable(self) -> bool | None: ...

    @property
    def keep(self) -> str | None: ...


@dataclass(frozen=True)
class NoTask:
    """A task without arguments, for the options that the defaults alone give."""

    resource_settings: ResourceSettings | Mapping[str, object] | None = None
    settings: BackendSettings | Mapping[str, object] | None = None
    image: str | None = None
    env: Mapping[str, str] | None = None
    secrets: Mapping[str, str] | None = None
    timeout: timedelta | float | None = None
    start_timeout: timedelta | float | None = None
    store: str | None = None
    deferrable: bool | None = None
    keep: str | None = None


class StepOptions:
    """The options that a step runs with. Each is computed when it is read.

    :param task: the operator, with rendered templates
    :param defaults: the defaults of the connection that the backend uses
    """

    def __init__(self, task: TaskOptions, defaults: ConnectionDefaults) -> None:
        self._task = task
        self.defaults = defaults

    @property
    def image(self) -> str | None:
        return self._task.image or self.defaults.image

    @property
    def timeout_s(self) -> float:
        configured = conf.getfloat("stepop", "timeout", fallback=86400.0)
        return seconds(self._task.timeout, "timeout") or self.defaults.timeout or float(configured)

    def timeout_with(self, settings: BackendSettings) -> float:
        """Return the longest run time in seconds. A backend may have a setting that is another name for it.

        The first value that is given counts, in this order: the task's ``timeout``, the setting of the task,
        the connection's ``timeout``, the setting of the connection, the configured default.

        :param settings: the result of :meth:`settings`
        """
        named = getattr(settings, settings.timeout_field) if settings.timeout_field else None
        if named is not None and self._task.timeout is None and settings.timeout_field in self.own_settings():
            return float(named)
        if self._task.timeout is not None or self.defaults.timeout is not None:
            return self.timeout_s
        return settings.timeout_or(self.timeout_s)

    def own_settings(self) -> set[str]:
        """Return the names of the settings that the task itself gives."""
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower() for key in _keys(self._task.settings)}

    @property
    def start_timeout_s(self) -> float | None:
        return seconds(self._task.start_timeout, "start_timeout") or self.defaults.start_timeout

    @property
    def keep(self) -> str:
        return self._task.keep or self.defaults.keep or DEFAULT_KEEP

    @property
    def deferrable(self) -> bool | None:
        """The task's value, else the connection's; ``None``: neither gives one."""
        return self._task.deferrable if self._task.deferrable is not None else self.defaults.deferrable

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of the task and of its connection; the task's values win.

        A variable of the connection is left out if the task has a secret with the same name.
        """
        hidden = self._task.secrets or {}
        given = {name: value for name, value in self.defaults.env.items() if name not in hidden}
        return {**given, **{name: str(value) for name, value in (self._task.env or {}).items()}}

    def store(self, scheme: str = "") -> Store:
        """Return the store for what is too large for a request.

        :param scheme: the backend's ``store_scheme``
        :raises StepConfigError: the task names a store that is not configured, or the connection names none
        """
        with named(self.defaults):
            own = store_of(self.defaults)
        return step_store(self._task.store, scheme, own)

    @property
    def store_place(self) -> str:
        """What names the store, if it is the connection: ``the connection 'gpu'``; else empty."""
        is_named = self.defaults.store is not None and not self._task.store
        return f"the connection {self.defaults.conn_id!r}" if is_named else ""

    @property
    def resources(self) -> ResourceSettings:
        """The resources of the step: each field is the task's, else the connection's.

        A ``gpu_type`` of the connection says which kind of GPU there is, and does not ask for a GPU. So it
        counts only if the task or the connection gives a ``gpu_count``.

        :raises StepConfigError: the fields do not go together: a ``gpu_type`` needs a ``gpu_count``
        """
        own = as_resources(self._task.resource_settings)
        if not self.defaults.resource_settings:
            own.check_complete()
            return own
        given = own.serialize()
        merged = {**self.defaults.resource_settings, **given}
        if "gpu_type" not in given and not merged.get("gpu_count"):
            merged.pop("gpu_type", None)
        found = ResourceSettings.from_dict(merged)
        found.check_complete()
        return found

    def settings(self, backend: str) -> BackendSettings:
        """Return the backend's own options: each key is the task's, else the connection's.

        :raises StepConfigError: an unknown key or a wrong value. The error names the connection if the key
            comes from there
        """
        model, own = hook_class(backend).settings_model, self._task.settings
        if not self.defaults.settings:
            return parse_settings(model, own, backend)
        base = known_settings(self.defaults, backend)
        if self._task.timeout is not None:
            base.pop(model.timeout_field, None)  # the task's timeout replaces it, as it replaces "timeout"
        if isinstance(own, model):
            given = {name: getattr(own, name) for name in own.model_fields_set}
        elif own is None or isinstance(own, Mapping):
            given = in_snake_case(own or {}, sorted(model.model_fields), backend)
        else:
            return parse_settings(model, own, backend)  # raises an error that says what is valid
        try:
            return parse_settings(model, {**base, **given}, backend)
        except StepConfigError as error:
            from_connection = {"", *(base.keys() - given.keys())}  # "": all settings together
            if _wrong_fields(error) & from_connection:
                raise StepConfigError(with_id(self.defaults, error)) from error
            raise

    def from_connection(self) -> list[str]:
        """Return the names of the options in the backend's request that come from the connection.

        For example ``image`` or ``settings.namespace``.
        """
        own_keys = {
            "settings": _keys(self._task.settings),
            "resource_settings": set(as_resources(self._task.resource_settings).serialize()),
        }
        found = []
        for path in self.defaults.given:
            name, _, key = path.partition(".")
            if name in own_keys:
                is_own = key in own_keys[name]
            else:
                is_own = getattr(self._task, name, None) is not None
            if name in _RENDERED and not is_own:
                found.append(path)
        return found


def as_resources(value: ResourceSettings | Mapping[str, object] | None) -> ResourceSettings:
    if value is None:
        return ResourceSettings()
    return value if isinstance(value, ResourceSettings) else ResourceSettings.from_dict(value)


def find_connection(conn_id: str | None, backend: str) -> Connection | None:
    """Return the connection that the backend uses: the named one, else the default one if it exists.

    :raises AirflowNotFoundException: no connection has the id ``conn_id``
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    if conn_id is not None:
        return BaseHook.get_connection(conn_id)
    default = hook_class(backend).default_conn_id
    if default is None:
        return None
    try:
        return BaseHook.get_connection(default)
    except AirflowNotFoundException:
        return None


def defaults_for(connection: Any, backend: str) -> ConnectionDefaults:
    """Return the defaults of a connection for steps on ``backend``; no defaults without a connection.

    :raises StepConfigError: the defaults have a mistake, or name another backend, or an endpoint that this
        backend does not have
    """
    if connection is None:
        return ConnectionDefaults()
    defaults = read_defaults(connection)
    if defaults.backend is not None and defaults.backend != backend:
        raise StepConfigError(
            f"the task runs on backend={backend!r}, and its connection {defaults.conn_id!r} is for "
            f"backend={defaults.backend!r} (in its extra); leave backend out of the task, or name another "
            "connection"
        )
    with named(defaults):
        _check_endpoints(defaults, backend)
    return defaults


def check_defaults(connection: Any, backend: str) -> ConnectionDefaults:
    """Return the defaults of a connection, with everything checked that can be checked without a task.

    :raises StepConfigError: names the connection, the key and what to write
    """
    defaults = defaults_for(connection, backend)
    base = known_settings(defaults, backend)
    try:
        parse_settings(hook_class(backend).settings_model, base, backend)
    except StepConfigError as error:
        if _wrong_fields(error) & set(base):  # else a field is missing, and the task may give it
            raise StepConfigError(with_id(defaults, error)) from error
    if defaults.store is not None:
        StepOptions(NoTask(), defaults).store()  # raises an error if that is no address of a store
    return defaults


def known_settings(defaults: ConnectionDefaults, backend: str) -> dict[str, object]:
    """Return the settings of a connection, with their names as in the backend's model (snake_case).

    :raises StepConfigError: a key that the backend does not have
    """
    valid = sorted(hook_class(backend).settings_model.model_fields)
    with named(defaults):
        found = in_snake_case(defaults.settings, valid, backend)
        for key in found:
            if key not in valid:
                raise StepConfigError(
                    f"settings: backend {backend!r} has no setting {key!r}{did_you_mean(key, valid)} "
                    f"(valid: {', '.join(valid) or 'none'})"
                )
    return found


@contextmanager
def named(defaults: ConnectionDefaults) -> Iterator[None]:
    """Put the connection's id before an error about its defaults."""
    try:
        yield
    except StepConfigError as error:
        raise StepConfigError(with_id(defaults, error)) from error


def with_id(defaults: ConnectionDefaults, error: Exception) -> str:
    """Return the message of an error about the defaults, with the connection's id before it."""
    return f'the connection {defaults.conn_id!r}: "{KEY}" in its extra: {error}'


def _check_endpoints(defaults: ConnectionDefaults, backend: str) -> None:
    valid = hook_class(backend).endpoint_names
    for name in defaults.endpoints:
        if not valid:
            raise StepConfigError(f"endpoints: backend {backend!r} takes none; remove {name!r}")
        if name not in valid:
            raise StepConfigError(
                f"endpoints: backend {backend!r} has no endpoint {name!r}{did_you_mean(name, valid)} "
                f"(valid: {', '.join(valid)})"
            )


def _wrong_fields(error: StepConfigError) -> set[str]:
    """Return the names of the settings that the error is about; ``""`` means all settings together."""
    from pydantic import ValidationError

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return set()
    return {str(one["loc"][0]) if one["loc"] else "" for one in cause.errors(include_url=False)}


def _keys(settings: BackendSettings | Mapping[str, object] | None) -> set[str]:
    if settings is None:
        return set()
    return set(settings if isinstance(settings, Mapping) else settings.model_fields_set)


def max_resubmissions(given: int | None) -> int:
    """Return the task's argument, else ``[stepop] max_resubmissions``, by default 10.

    :raises StepConfigError: the configured value is not a whole number of 0 or more
    """
    if given is not None:
        return given
    text = str(conf.get("stepop", "max_resubmissions", fallback="") or MAX_RESUBMISSIONS)
    if not (text.isascii() and text.isdigit()):
        raise StepConfigError(f"[stepop] max_resubmissions must be 0, 1, 2, ..., and this is {text!r}")
    return int(text)


def thread_grace_s() -> float:
    """Return ``[stepop] thread_grace``: how long threads may go on after a step's function has ended.

    :raises StepConfigError: the configured value is not a number of seconds
    """
    text = str(conf.get("stepop", "thread_grace", fallback="") or GRACE_S)
    try:
        found_s = float(text)
    except ValueError:
        found_s = -1.0
    if not 0 <= found_s <= LONGEST_S:
        raise StepConfigError(f"[stepop] thread_grace must be seconds, 0 or more, and this is {text!r}")
    return found_s
