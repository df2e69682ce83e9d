"""The defaults for steps that a connection holds: the key ``stepop`` of its extra, read and checked.

Steps, hooks and the command line read a connection's defaults with this module. A connection with defaults is
what other tools call a registered step operator. ``lifecycle/options.py`` combines the defaults with a task's
own arguments, which win.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.reserved import KEEP, OUR_ENV
from airflow_stepop.core.units import LONGEST_S
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.protocol import is_plain_text

KEY = "stepop"


@dataclass(frozen=True, kw_only=True)
class ConnectionDefaults:
    """The values under ``stepop`` in a connection's extra. ``None`` or empty: the connection gives no value.

    :param conn_id: id of the connection, for error messages
    :param backend: name of the backend; also read from the old place, the key ``backend`` of the extra itself
    :param image: container image
    :param store: address of a store, which is a configured one thereby
    :param settings: the backend's own options, not yet checked against its model
    :param resource_settings: fields of :class:`ResourceSettings`, each of them valid
    :param env: environment variables
    :param timeout: longest run time in seconds
    :param start_timeout: longest time until the step begins, in seconds
    :param keep: which finished jobs stay at their service: ``never``, ``failed`` or ``always``
    :param deferrable: whether the task waits in the triggerer
    :param endpoints: addresses of the service, for the hook
    """

    conn_id: str = ""
    backend: str | None = None
    image: str | None = None
    store: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resource_settings: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    start_timeout: float | None = None
    keep: str | None = None
    deferrable: bool | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> list[str]:
        """Return the names of the values that the connection gives, such as ``image`` and ``env.LEVEL``."""
        found: list[str] = []
        for name in VALID:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                found += [f"{name}.{key}" for key in value]
            elif value is not None:
                found.append(name)
        return found


VALID = tuple(one.name for one in fields(ConnectionDefaults) if one.name != "conn_id")  # the valid keys


def read_defaults(connection: Any) -> ConnectionDefaults:
    """Return the defaults that a connection holds; a connection without any is not an error.

    :param connection: a connection of Airflow's SDK or of its core
    :raises StepConfigError: the extra is not JSON, or its ``stepop`` has a mistake; names the connection, the
        key and what to write
    """
    extra, conn_id = extra_of(connection), str(connection.conn_id)
    given = extra.get(KEY)
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise StepConfigError(
            f'the connection {conn_id!r}: "{KEY}" in its extra is {_shown(given)} and not an object; write '
            f'{{"{KEY}": {{"image": "..."}}}}. In the address of a connection (AIRFLOW_CONN_...) only '
            "__extra__ can hold an object"
        )
    try:
        _check_names(given)
        values = {name: _READERS[name](value) for name, value in given.items() if value is not None}
        values["backend"] = _one_backend(values.get("backend"), extra.get("backend"))
    except StepConfigError as error:
        raise StepConfigError(f'the connection {conn_id!r}: "{KEY}" in its extra: {error}') from error
    return ConnectionDefaults(conn_id=conn_id, **values)


def _check_names(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in VALID:
            raise StepConfigError(
                f"it has {name!r}, which is no default{did_you_mean(name, VALID)} (valid: {', '.join(VALID)})"
            )
    for path, text in _texts(given, ""):
        if "{{" in text or "{%" in text:
            raise StepConfigError(
                f"{path} is a template, and a connection is not rendered; write the "
                "value itself, or give the template to the task"
            )


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) for every text inside ``value``. A path is, for example, ``settings.a[0]``."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")


def _one_backend(named: str | None, old: Any) -> str | None:
    """Return the backend that the extra names: under ``stepop``, or beside it (the old place)."""
    if old is None or old == "":
        return named
    if named is not None and named != old:
        raise StepConfigError(
            f'backend={named!r} contradicts "backend": {_shown(old)} beside it; remove the latter'
        )
    return named or _text("backend")(old)


def _shown(value: Any) -> str:
    return reprlib.repr(value)


# A reader (see _READERS) checks the value of one key and returns it. These three make the reader of a key


def _text(name: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or not is_plain_text(value):
            raise StepConfigError(f"{name}={_shown(value)} must be a text that is not empty")
        return value

    return read


def _object(name: str) -> Callable[[Any], Mapping[str, Any]]:
    def read(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise StepConfigError(f"{name}={_shown(value)} must be an object of names and values")
        return dict(value)

    return read


def _duration(name: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not isfinite(value) or not 0 < value <= LONGEST_S:
            raise StepConfigError(
                f"{name}={_shown(value)} must be a number of seconds above 0 and below 100 years; "
                "for an hour write 3600"
            )
        return float(value)

    return read


def _keep(value: Any) -> str:
    if value not in KEEP:
        raise StepConfigError(f"keep={_shown(value)} is not one of {', '.join(KEEP)}")
    return str(value)


def _deferrable(value: Any) -> bool:
    if not isinstance(value, bool):
        raise StepConfigError(f"deferrable={_shown(value)} must be true or false")
    return value


def _resources(value: Any) -> dict[str, Any]:
    """Return the fields, in the form that :class:`ResourceSettings` stores.

    Each field is checked alone, since the task may give the others.
    """
    checked: dict[str, Any] = {}
    for name, one in _object("resource_settings")(value).items():
        try:
            checked |= ResourceSettings.from_dict({name: one}).serialize()
        except StepConfigError as error:
            raise StepConfigError(f"resource_settings: {error}") from error
    return checked


def _env(value: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, one in _object("env")(value).items():
        if not name or "=" in name or not is_plain_text(name):
            raise StepConfigError(f"env has the name {name!r}; a name is not empty and has no '='")
        if name in OUR_ENV:
            raise StepConfigError(f"env has the name {name!r}, which is set for every step; choose another")
        if isinstance(one, bool) or not isinstance(one, (str, int, float)) or not is_plain_text(str(one)):
            kind = type(one).__name__  # the message does not show the value, which may be secret
            raise StepConfigError(f"env.{name} is of type {kind}; write a text without NUL characters")
        found[name] = str(one)
    return found


def _endpoints(value: Any) -> dict[str, str]:
    return {
        name: _text(f"endpoints.{name}")(address) for name, address in _object("endpoints")(value).items()
    }


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "backend": _text("backend"),
    "image": _text("image"),
    "store": _text("store"),
    "settings": _object("settings"),
    "resource_settings": _resources,
    "env": _env,
    "timeout": _duration("timeout"),
    "start_timeout": _duration("start_timeout"),
    "keep": _keep,
    "deferrable": _deferrable,
    "endpoints": _endpoints,
}
