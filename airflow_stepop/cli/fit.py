"""``airflow stepop describe BACKEND --fit``: the machine types of a service that fit some resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_stepop.core.units import NUMBER, shown_size
from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.resources import ResourceSettings

if TYPE_CHECKING:
    from airflow_stepop.cli.output import Row
    from airflow_stepop.hooks.base import StepHook

_SHORT = {"cpu": "cpu_count", "cpus": "cpu_count", "gpu": "gpu_count", "gpus": "gpu_count"}
_EXAMPLE = "cpu=4,memory=16GB,gpu=1"


def parse_fit(text: str) -> ResourceSettings:
    """Return the resources of a text such as ``cpu=4,memory=16GB,gpu=1,gpu_type=A100``.

    :raises StepConfigError: the text has another form, or a field is unknown or not valid
    """
    values: dict[str, object] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in word.partition("="))
        name = _SHORT.get(key, key)
        if not equals or not value or name in values:
            raise StepConfigError(
                f"--fit {text!r}: {word!r} is not NAME=VALUE, once for each name: {_EXAMPLE}"
            )
        is_number = name.endswith("_count") and NUMBER.fullmatch(value)
        values[name] = (float(value) if "." in value else int(value)) if is_number else value
    return ResourceSettings.from_dict(values)


def fitting_machines(hook: StepHook, wants: ResourceSettings) -> Iterator[Row]:
    """Yield the smallest machine of each family that fits, in the order in which the backend prefers them.

    :raises UnsupportedError: the jobs of this backend have no machine types, or no machine fits
    """
    machines = hook.machines()
    if machines is None:
        raise UnsupportedError(f"--fit: backend {hook.backend!r} has no machine types")
    for one in machines.smallest_of_each_family(wants):
        yield {
            "machine": one.name,
            "cpu_count": one.cpu_count,
            "memory": shown_size(one.memory_bytes),
            "gpu_count": one.gpu_count,
            "gpu_type": one.gpu_type,
            "gpu_memory": shown_size(one.gpu_memory_bytes) if one.gpu_memory_bytes else "",
            "disk": "a volume" if one.disk_bytes is None else f"{one.disk_bytes / 10**9:g} GB",
        }
