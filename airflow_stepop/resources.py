"""``ResourceSettings``: CPU, memory, GPUs and disk of a step, with the same meaning for every backend.

DAG files create the settings, the worker renders their templates, and the backends read them. Standard
library only, because DAG files import this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Never, Protocol

from airflow_stepop.core.units import NUMBER, format_size, parse_size, split_size
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Context

    class Reference(Protocol):
        """A value that is known only when the task runs, such as another task's output (``XComArg``)."""

        def iter_references(self) -> Any: ...

        def resolve(self, context: Any) -> Any: ...


def _size(value: object, name: str) -> str:
    return "".join(split_size(value, name))


def _cpu_count(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise StepConfigError(f"{name}={value!r} is not a number; write {name}=2 or {name}=0.5")
    if not math.isfinite(value) or value <= 0:
        raise StepConfigError(
            f"{name}={value!r} must be more than zero; leave {name} out for the backend's default"
        )
    return float(value)


def _whole(value: object, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise StepConfigError(f"{name}={value!r} is not a whole number; write {name}={max(least, 1)}")
    if value < least:
        raise StepConfigError(f"{name}={value!r} must be at least {least}")
    return int(value)


def _gpu_count(value: object, name: str) -> int:
    return _whole(value, name, least=0)


def _nodes(value: object, name: str) -> int:
    return _whole(value, name, least=1)


def _gpu_type(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise StepConfigError(
            f"{name}={value!r} is not the name of a GPU; write its name, such as {name}='A100'"
        )
    return value.strip()


_PARSERS: Mapping[str, Callable[[object, str], Any]] = {
    "cpu_count": _cpu_count,
    "memory": _size,
    "gpu_count": _gpu_count,
    "gpu_type": _gpu_type,
    "disk": _size,
    "shm": _size,
    "nodes": _nodes,
}


def _is_deferred(value: object) -> bool:
    """Return whether ``value`` is known only when the task runs: a template or another task's output."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return hasattr(value, "iter_references") and hasattr(value, "resolve")


@dataclass(frozen=True, init=False, repr=False)
class ResourceSettings:
    """The resources that a step asks for. Every field is optional; ``None`` means the backend's default.

    - A backend that cannot honour a field refuses the step. No field is silently ignored.
    - Any field may be a Jinja template or another task's output. Such a field is checked when the task runs.
    - Sizes are stored in one spelling: ``"1.50 gib"`` becomes ``"1.5GiB"``.

    :param cpu_count: CPU cores, more than 0; fractions are allowed
    :param memory: main memory with its unit: ``"32GB"``, ``"16GiB"`` (or ``"16Gi"``)
    :param gpu_count: GPUs, 0 or more
    :param gpu_type: name of the GPU, in the backend's own spelling; needs ``gpu_count``, here or in the
        connection
    :param disk: scratch disk, written like ``memory``
    :param shm: size of ``/dev/shm``, written like ``memory``
    :param nodes: machines, 1 or more
    :raises StepConfigError: a value is not valid, or a field is unknown; the message says what to write
    """

    cpu_count: float | None = None
    memory: str | None = None
    gpu_count: int | None = None
    gpu_type: str | None = None
    disk: str | None = None
    shm: str | None = None
    nodes: int | None = None

    def __new__(cls, **values: Any) -> ResourceSettings:
        if any(hasattr(value, "iter_references") for value in values.values()):
            return object.__new__(_reference_class())
        return object.__new__(cls)

    def __init__(  # noqa: PLR0913 - one argument per field
        self,
        *,
        cpu_count: float | str | Reference | None = None,
        memory: str | Reference | None = None,
        gpu_count: int | str | Reference | None = None,
        gpu_type: str | Reference | None = None,
        disk: str | Reference | None = None,
        shm: str | Reference | None = None,
        nodes: int | str | Reference | None = None,
        **unknown: Never,
    ) -> None:
        for name in unknown:
            raise StepConfigError(_unknown(name))
        given = (cpu_count, memory, gpu_count, gpu_type, disk, shm, nodes)
        for (name, parse), value in zip(_PARSERS.items(), given, strict=True):
            is_kept = value is None or _is_deferred(value)
            object.__setattr__(self, name, value if is_kept else parse(value, name))
        if self.gpu_count is not None:
            self.check_complete()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResourceSettings:
        """Return the settings of a dict of fields; the inverse of :meth:`serialize`.

        :raises StepConfigError: ``values`` is no dict, or a field is unknown or not valid
        """
        if not isinstance(values, Mapping):
            raise StepConfigError(f"resource_settings={values!r} is neither a ResourceSettings nor a dict")
        for name in values:
            if name not in _PARSERS:
                raise StepConfigError(_unknown(str(name)))
        return cls(**values)

    def check_complete(self) -> None:
        """Check what one field asks of another. The task's connection may give the other one, so a step is
        checked when both are known.

        :raises StepConfigError: a type of GPU without a number of GPUs
        """
        if self.gpu_type is not None and not self.gpu_count:
            raise StepConfigError(f"gpu_type={self.gpu_type!r} needs gpu_count; write gpu_count=1 beside it")

    @property
    def is_literal(self) -> bool:
        """Whether every field is known when the DAG file is parsed, without templates and references."""
        return not any(_is_deferred(getattr(self, name)) for name in _PARSERS)

    @property
    def memory_bytes(self) -> int | None:
        return self._bytes("memory")

    @property
    def disk_bytes(self) -> int | None:
        return self._bytes("disk")

    @property
    def shm_bytes(self) -> int | None:
        return self._bytes("shm")

    def at_least(self, memory_bytes: int | None) -> ResourceSettings:
        """Return these settings with at least ``memory_bytes`` of memory. They must be literal."""
        if memory_bytes is None or memory_bytes <= (self.memory_bytes or 0):
            return self
        return ResourceSettings(**{**self.serialize(), "memory": format_size(memory_bytes)})

    def _bytes(self, name: str) -> int | None:
        value = getattr(self, name)
        if value is None:
            return None
        if _is_deferred(value):
            raise StepConfigError(f"{name}={value!s} is known only when the task runs")
        return parse_size(value, name)

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Yield the (operator, XCom key) pairs of the references. Airflow makes them upstream tasks."""
        for name in _PARSERS:
            value = getattr(self, name)
            if hasattr(value, "iter_references"):
                yield from value.iter_references()

    def resolve(self, context: Context) -> ResourceSettings:
        """Return new settings with every template rendered and every reference loaded. Airflow calls this.

        ``self`` does not change, because mapped and copied tasks share the object.

        :raises StepConfigError: a rendered value is not valid
        """
        task = context["task"]
        values = {}
        for name in _PARSERS:
            value = getattr(self, name)
            if _is_deferred(value):
                value = _from_rendered(task.render_template(value, context), name)
                if _is_deferred(value):
                    raise StepConfigError(f"{name}={value!r} is still a template after it was rendered")
            values[name] = value
        return ResourceSettings(**values)

    def serialize(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON.

        The JSON is deterministic, because Airflow derives the version of the DAG from it.
        """
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {
            name: str(value) if hasattr(value, "iter_references") else value
            for name, value in values
            if value is not None
        }

    def __repr__(self) -> str:
        return (
            f"ResourceSettings({', '.join(f'{name}={value!r}' for name, value in self.serialize().items())})"
        )


@cache
def _reference_class() -> type[ResourceSettings]:
    """Return the class for settings that contain references.

    Airflow looks for references only in a ``ResolveMixin``. The class is created on first use, because this
    module must not import Airflow otherwise.
    """
    from airflow.sdk.definitions._internal.mixins import ResolveMixin

    class ReferringResourceSettings(ResourceSettings, ResolveMixin):
        """Settings with a field that is another task's output."""

    return ReferringResourceSettings


def _from_rendered(value: object, name: str) -> object:
    """Return the value of a rendered template: Jinja turns numbers and ``None`` into text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text == "None":
        return None
    if name in ("cpu_count", "gpu_count", "nodes") and NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return value


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    aliases = {
        "cpu": "cpu_count",
        "cpus": "cpu_count",
        "gpu": "gpu_count",
        "gpus": "gpu_count",
        "ram": "memory",
    }
    close = [aliases[name]] if name in aliases else get_close_matches(name, _PARSERS, n=1)
    guess = f"; did you mean {close[0]}?" if close else "."
    return f"ResourceSettings has no {name!r}{guess} Its fields: {', '.join(_PARSERS)}"
