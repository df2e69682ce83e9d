"""The options of one step: what the task says, over what its connection says.

``lifecycle/request.py`` asks here when a step runs; ``airflow stepop check`` and ``describe`` show the same
without a task. The order is: the task's argument or its ``default_args``, the connection's ``stepop``, the
section ``[stepop]`` of Airflow's configuration, the backend's default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk.configuration import conf

from airflow_stepop.connections.defaults import KEY, ConnectionDefaults, read_defaults
from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.units import seconds
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.settings import BackendSettings, in_snake_case, parse_settings
from airflow_stepop.registry import hook_class
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.configured import configured_store

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Connection

    from airflow_stepop.stores.base import Store

DEFAULT_KEEP = "failed"
# What the connection gives and a backend's request shows, so that a refused request may come from it
_RENDERED = ("image", "settings", "resource_settings", "timeout", "start_timeout")


class TaskOptions(Protocol):
    """Those arguments of a task that its connection may give instead."""

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
    """A task that says nothing: what is left are the defaults."""

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
    """What a step runs with. Every value is worked out when it is asked for.

    :param task: the operator, rendered
    :param defaults: of the connection that the backend uses
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

    @property
    def start_timeout_s(self) -> float | None:
        return seconds(self._task.start_timeout, "start_timeout") or self.defaults.start_timeout

    @property
    def keep(self) -> str:
        return self._task.keep or self.defaults.keep or DEFAULT_KEEP

    @property
    def deferrable(self) -> bool | None:
        """What the task or the connection says; ``None``: neither says anything."""
        return self._task.deferrable if self._task.deferrable is not None else self.defaults.deferrable

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that the user gives. A secret of the task hides one of the connection."""
        hidden = self._task.secrets or {}
        given = {name: value for name, value in self.defaults.env.items() if name not in hidden}
        return {**given, **{name: str(value) for name, value in (self._task.env or {}).items()}}

    @property
    def store(self) -> Store:
        """The store for what is too large for a request.

        :raises StepConfigError: it is none of the configured ones
        """
        if self._task.store or not self.defaults.store:
            return configured_store(self._task.store)
        with named(self.defaults):
            return configured_store(self.defaults.store)

    @property
    def resources(self) -> ResourceSettings:
        """What the step needs, field by field.

        The connection's ``gpu_type`` counts for a step that asks for GPUs, here or there: it says which kind
        there is, and asks for none.

        :raises StepConfigError: the fields do not go together
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
        """Return the backend's own options, key by key.

        :raises StepConfigError: an unknown key or a wrong value; names the connection that gives it
        """
        model, own = hook_class(backend).settings_model, self._task.settings
        if not self.defaults.settings:
            return parse_settings(model, own, backend)
        base = known_settings(self.defaults, backend)
        if isinstance(own, model):
            given = {name: getattr(own, name) for name in own.model_fields_set}
        elif own is None or isinstance(own, Mapping):
            given = in_snake_case(own or {}, sorted(model.model_fields), backend)
        else:
            return parse_settings(model, own, backend)  # says what is valid
        try:
            return parse_settings(model, {**base, **given}, backend)
        except StepConfigError as error:
            wrong = _wrong_fields(error)
            if any(not loc or (loc in base and loc not in given) for loc in wrong):
                raise StepConfigError(with_id(self.defaults, error)) from error
            raise

    def from_connection(self) -> list[str]:
        """Return what the connection gives to the backend's request: ``image``, ``settings.namespace``."""
        own = {
            "settings": _keys(self._task.settings),
            "resource_settings": set(as_resources(self._task.resource_settings).serialize()),
        }
        found = []
        for path in self.defaults.given:
            name, _, key = path.partition(".")
            is_own = key in own[name] if key and name in own else getattr(self._task, name, None) is not None
            if name in _RENDERED and not is_own:
                found.append(path)
        return found


def as_resources(value: ResourceSettings | Mapping[str, object] | None) -> ResourceSettings:
    if value is None:
        return ResourceSettings()
    return value if isinstance(value, ResourceSettings) else ResourceSettings.from_dict(value)


def find_connection(conn_id: str | None, backend: str) -> Connection | None:
    """Return the connection that the backend uses: the named one, else its default one if that exists.

    :raises AirflowNotFoundException: there is none of that name
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
    """Return the defaults of a connection for steps on ``backend``; none of no connection.

    :raises StepConfigError: a mistake in them, another backend than this one, endpoints that it does not take
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
        if _wrong_fields(error) & set(base):  # the task may give what is missing
            raise StepConfigError(with_id(defaults, error)) from error
    if defaults.store is not None:
        _ = StepOptions(NoTask(), defaults).store
    return defaults


def known_settings(defaults: ConnectionDefaults, backend: str) -> dict[str, object]:
    """Return the settings of a connection, spelt as the backend's model spells them.

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
    """Return what an error about the defaults says, after the id of their connection."""
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
    """Return the settings that a refusal is about; an empty name stands for all of them together."""
    from pydantic import ValidationError

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return set()
    return {str(one["loc"][0]) if one["loc"] else "" for one in cause.errors(include_url=False)}


def _keys(settings: BackendSettings | Mapping[str, object] | None) -> set[str]:
    if settings is None:
        return set()
    return set(settings if isinstance(settings, Mapping) else settings.model_fields_set)
