"""Chooses the instance type and the volume of a training job for ``resource_settings``.

The table of machines is ``machines.json``, which ``scripts/sagemaker_machines.py`` writes. The order is that
of :class:`~airflow_stepop.hooks.common.machines.Machines`; machines of previous generations, burstable and
flex machines (their CPUs are not steady), and machines for much network traffic come last.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.machines import Machine, Machines
from airflow_stepop.hooks.sagemaker.literals import check_literals
from airflow_stepop.resources import ResourceSettings

# of a step that asks for nothing: the smallest general machine with a quota in a new account
DEFAULT_TYPE = "ml.m5.large"
DEFAULT_VOLUME_GB = 30  # as in the vendor's SDK
# The service's agent runs on the machine, too. Jobs near the limit are killed without a word about memory:
# grand-challenge.org keeps the same amount (app/grandchallenge/components/backends/amazon_sagemaker_base.py)
RESERVED_BYTES = 10**9
RUNNERS_UP = 4


class MachineSettings(Protocol):
    """What ``SageMakerSettings`` says about the machine."""

    @property
    def instance_types(self) -> tuple[str, ...]: ...
    @property
    def volume_size_in_gb(self) -> int | None: ...
    @property
    def volume_kms_key(self) -> str | None: ...


@dataclass(frozen=True)
class Choice:
    """The machine of a job.

    :param instance_types: the types in the order of preference; more than one: ``InstancePreferences``
    :param machine: the first type; ``None`` if the table does not have it
    :param volume_gb: ``VolumeSizeInGB`` of the request. For a machine with NVMe disks it is their size,
        because jobs share a warm pool only if they say the same
    :param runners_up: types that fit as well, best first; empty if the step names its machine
    :param message: what was chosen and why, for the log; empty if the step names its machine
    :param warnings: what could not be checked, for the log
    """

    instance_types: tuple[str, ...]
    machine: Machine | None
    volume_gb: int = DEFAULT_VOLUME_GB
    runners_up: tuple[str, ...] = ()
    message: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_accelerated(self) -> bool:
        """Whether one of the types has GPUs or other accelerators."""
        return any(is_accelerated(name) for name in self.instance_types)

    @property
    def has_gpu(self) -> bool:
        """Whether one of the types has GPUs: an image for GPUs does not run on other accelerators."""
        return any(
            is_accelerated(name) and not re.match(r"ml\.(?:trn|inf)[0-9]", name)
            for name in self.instance_types
        )


@cache
def machines() -> Machines:
    """Return the machines of SageMaker training."""
    table = json.loads(Path(__file__).with_name("machines.json").read_text())
    rows = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    return Machines("SageMaker", map(_machine, rows), reserved_bytes=RESERVED_BYTES)


def _machine(row: dict[str, Any]) -> Machine:
    family = row["name"].split(".")[1]
    generation = re.search(r"[0-9]+", family)
    return Machine(
        name=row["name"],
        cpu_count=row["cpu_count"],
        memory_bytes=row["memory_mib"] * 2**20,
        gpu_count=row["gpu_count"],
        gpu_type=row["gpu_type"],
        disk_bytes=row["nvme_gb"] * 10**9 or None,
        gpu_memory_bytes=row["gpu_memory_mib"] * 2**20,
        family=family,
        generation=int(generation[0]) if generation else 0,
        is_preferred=not row["kind"],
        is_named_only=row["gpu_type"].startswith("Trainium"),
    )


def is_accelerated(instance_type: str) -> bool:
    """Return whether a type has GPUs or other accelerators; of an unknown type, its family tells."""
    machine = machines().get(instance_type)
    if machine is not None:
        return machine.gpu_count > 0
    return re.match(r"ml\.(?:p|g|trn|inf)[0-9]", instance_type) is not None


def choose(settings: MachineSettings, wants: ResourceSettings, input_bytes: int = 0) -> Choice:
    """Return the machine and the volume of a step.

    An ``instance_type`` of the settings is checked against the resources. Without one, the smallest machine
    that fits is chosen.

    :param wants: the resources that the step asks for
    :param input_bytes: size of the data that the job finds on its disk
    :raises UnsupportedError: the backend cannot honour a resource, or no machine fits
    :raises StepConfigError: the settings contradict the resources; the message names what fits
    """
    check_literals(None, wants)
    choice = _named(settings, wants) if settings.instance_types else _smallest(settings, wants)
    rows = [machines().get(name) for name in choice.instance_types]
    for machine in rows:
        _check_disk(settings, machine)
    return replace(choice, volume_gb=_volume_gb(settings, wants, rows, input_bytes))


def _named(settings: MachineSettings, wants: ResourceSettings) -> Choice:
    types = settings.instance_types
    unknown = [name for name in types if machines().check(name, wants) is None]
    return Choice(
        types,
        machine=machines().get(types[0]),
        warnings=tuple(
            f"the table of machines does not have {name!r}, so it was not compared with resource_settings"
            for name in unknown
        ),
    )


def _smallest(settings: MachineSettings, wants: ResourceSettings) -> Choice:
    asked = wants.serialize()
    if settings.volume_size_in_gb is not None and wants.disk is None:  # the disk of an NVMe machine is fixed
        wants = ResourceSettings(**asked, disk=f"{settings.volume_size_in_gb}GB")
    found = machines().smallest_of_each_family(wants)
    is_default = not any(value for name, value in asked.items() if name not in ("disk", "nodes"))
    default = machines().get(DEFAULT_TYPE) if is_default else None
    first = default or found[0]
    runners_up = tuple(one.name for one in found if one != first)[:RUNNERS_UP]
    others = f"; also possible: {', '.join(runners_up)}" if runners_up else ""
    why = (
        ", ".join(f"{name}={value!r}" for name, value in asked.items()) or "a step without resource_settings"
    )
    return Choice(
        (first.name,), machine=first, runners_up=runners_up, message=f"chose {first} for {why}{others}"
    )


def _check_disk(settings: MachineSettings, machine: Machine | None) -> None:
    """Refuse volume settings that the service refuses or ignores for machines with NVMe disks."""
    if machine is None or machine.disk_bytes is None:
        return
    size_gb = machine.disk_bytes // 10**9
    if settings.volume_kms_key is not None:
        raise StepConfigError(
            f"volume_kms_key: {machine.name} has NVMe disks, which the machine encrypts with its own key, "
            "and the service refuses another one; leave it out, or use a machine without NVMe disks"
        )
    if settings.volume_size_in_gb is not None and settings.volume_size_in_gb > size_gb:
        raise StepConfigError(
            f"volume_size_in_gb={settings.volume_size_in_gb}: {machine.name} has a fixed disk of {size_gb} "
            f"GB and no volume; write at most volume_size_in_gb={size_gb}, or use another machine"
        )


def _volume_gb(
    settings: MachineSettings, wants: ResourceSettings, rows: Sequence[Machine | None], input_bytes: int
) -> int:
    """Return ``VolumeSizeInGB``. The service counts in GiB, whatever the name says.

    :param rows: the machines that the job may run on; ``None`` for one that the table does not have
    :raises StepConfigError: ``volume_size_in_gb`` is less than ``disk``
    """
    disk_gb = math.ceil((wants.disk_bytes or 0) / 2**30)
    if settings.volume_size_in_gb is not None:
        if settings.volume_size_in_gb < disk_gb:
            raise StepConfigError(
                f"volume_size_in_gb={settings.volume_size_in_gb} contradicts disk={wants.disk!r} of "
                f"resource_settings; write volume_size_in_gb={disk_gb} or more, or set one of them"
            )
        return settings.volume_size_in_gb
    fixed = [one.disk_bytes for one in rows if one is not None and one.disk_bytes is not None]
    if len(fixed) == len(rows):
        return fixed[0] // 10**9
    return max(DEFAULT_VOLUME_GB, disk_gb, math.ceil(2 * input_bytes / 2**30))
