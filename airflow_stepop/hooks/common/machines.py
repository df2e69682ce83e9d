"""Machine types: find the smallest one that fits a step, and check one that a step names.

For services whose request names a machine type. A backend makes one :class:`Machines` from its own table; the
table says where it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.units import format_size, shown_size
from airflow_stepop.exceptions import StepConfigError, UnsupportedError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

# GiB of memory that cost about as much as one vCPU, at the on-demand prices of the large clouds
_GIB_PER_CPU = 10
# words in the names of GPUs that do not tell two GPUs apart: Google's, NVIDIA's and Kubernetes' spellings
_FILLERS = frozenset({"NVIDIA", "TESLA", "AMD", "AWS", "GPU", "PCIE", "SERVER", "EDITION", "MEGA"})
_VARIANT = re.compile(r"(?:SXM|HBM)[0-9]*E?")
_MEMORY = re.compile(r"([0-9]+)(?:GB|GIB|G)")


@dataclass(frozen=True)
class Machine:
    """One machine type of a service.

    :param memory_bytes: main memory of the machine, in bytes
    :param gpu_count: GPUs, or other accelerators
    :param gpu_type: name of the GPU as the service writes it: ``A100``
    :param disk_bytes: size of the fixed disk in bytes; ``None`` if a volume of any size can be attached
    :param price_per_hour: price in US dollars; ``None`` if the table has none
    :param gpu_memory_bytes: memory of one GPU, in bytes; 0 if it is not known
    :param family: machines that differ only in size have the same family
    :param generation: of machines of equal size, the one of the highest generation comes first
    :param is_preferred: ``False``: comes after all preferred machines, such as one of a previous generation
    :param is_named_only: fits a step only if ``gpu_type`` names its accelerator: code for GPUs does not run
        there
    """

    name: str
    cpu_count: float
    memory_bytes: int
    gpu_count: int = 0
    gpu_type: str = ""
    disk_bytes: int | None = None
    price_per_hour: float | None = None
    gpu_memory_bytes: int = 0
    family: str = ""
    generation: int = 0
    is_preferred: bool = True
    is_named_only: bool = False

    def __str__(self) -> str:
        """Return name and sizes for people: ``ml.g5.xlarge (4 CPUs, 16 GiB, 1 A10G, 250 GB disk)``."""
        parts = [f"{self.cpu_count:g} CPUs", shown_size(self.memory_bytes)]
        if self.gpu_count:
            parts.append(f"{self.gpu_count} {self.gpu_type}")
        if self.disk_bytes is not None:
            parts.append(f"{self.disk_bytes / 10**9:g} GB disk")
        return f"{self.name} ({', '.join(parts)})"


class Machines:
    """The machine types of a service.

    Machines are in this order: by number of GPUs; of these the preferred ones first; then by memory of one
    GPU and by size (CPUs and memory together); then the newest generation. So the first machine that fits is
    the smallest one, and one of a previous generation only if no other fits.

    :param service: name of the service, for messages
    :param machines: the machines, in any order
    :param reserved_bytes: memory of each machine that a step cannot use
    """

    def __init__(self, service: str, machines: Iterable[Machine], *, reserved_bytes: int = 0) -> None:
        self.service = service
        self.reserved_bytes = reserved_bytes
        self._machines = sorted(machines, key=_order)
        self._by_name = {one.name: one for one in self._machines}

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines)

    def get(self, name: str) -> Machine | None:
        """Return the machine with this name; ``None`` if the table does not have it."""
        return self._by_name.get(name)

    def fitting(self, wants: ResourceSettings) -> Sequence[Machine]:
        """Return the machines that fit, best first.

        A machine with GPUs fits only a step that asks for GPUs.

        :raises UnsupportedError: no machine fits; the message says what the largest machines have
        """
        found = [
            one
            for one in self._machines
            if not self.lacks(one, wants) and (wants.gpu_count or not one.gpu_count)
        ]
        if not found:
            raise UnsupportedError(self._none_fits(wants))
        return found

    def smallest_of_each_family(self, wants: ResourceSettings) -> Sequence[Machine]:
        """Return the first fitting machine of each family, best first. The errors are those of
        :meth:`fitting`.
        """
        found: dict[str, Machine] = {}
        for one in self.fitting(wants):
            found.setdefault(one.family or one.name, one)
        return list(found.values())

    def check(self, name: str, wants: ResourceSettings) -> Machine | None:
        """Return the machine with this name; ``None`` if the table does not have it, so nothing was checked.

        :raises StepConfigError: the machine has less than the step asks for; names a machine that fits
        """
        machine = self.get(name)
        if machine is None:
            return None
        if lacks := self.lacks(machine, wants):
            found = self.fitting(wants)
            nearest = next((one for one in found if one.family and one.family == machine.family), found[0])
            raise StepConfigError(
                f"machine {name!r} contradicts resource_settings: {', '.join(lacks)}; {nearest} fits"
            )
        return machine

    def lacks(self, machine: Machine, wants: ResourceSettings) -> list[str]:
        """Return what a machine has too little of, for messages; empty if the machine fits."""
        found = []
        if wants.cpu_count is not None and wants.cpu_count > machine.cpu_count:
            found.append(f"cpu_count={wants.cpu_count:g} is more than its {machine.cpu_count:g}")
        usable_bytes = machine.memory_bytes - self.reserved_bytes
        if wants.memory_bytes is not None and wants.memory_bytes > usable_bytes:
            found.append(f"memory={wants.memory!r} is more than its {shown_size(usable_bytes)}")
            if self.reserved_bytes:
                found[-1] += f" (the service keeps {format_size(self.reserved_bytes)})"
        if wants.disk_bytes is not None and wants.disk_bytes > (machine.disk_bytes or wants.disk_bytes):
            found.append(
                f"disk={wants.disk!r} is more than its fixed disk of {(machine.disk_bytes or 0) / 10**9:g} GB"
            )
        return found + self._gpus_lacking(machine, wants)

    def _gpus_lacking(self, machine: Machine, wants: ResourceSettings) -> list[str]:
        if wants.gpu_count == 0 and machine.gpu_count:
            return [f"gpu_count=0, and it has {machine.gpu_count} {machine.gpu_type}"]
        if not wants.gpu_count:
            return []
        if wants.gpu_count > machine.gpu_count:
            return [f"gpu_count={wants.gpu_count} is more than its {machine.gpu_count}"]
        if wants.gpu_type is not None:
            is_right = is_gpu(machine, wants.gpu_type)
            return [] if is_right else [f"gpu_type={wants.gpu_type!r} is not its {machine.gpu_type}"]
        if machine.is_named_only:
            return [f"it has {machine.gpu_type} and no GPU: name it with gpu_type={machine.gpu_type!r}"]
        return []

    def _none_fits(self, wants: ResourceSettings) -> str:
        asked = ", ".join(f"{name}={value!r}" for name, value in wants.serialize().items())
        text = f"no machine of {self.service} has {asked}"
        candidates = [one for one in self._machines if bool(wants.gpu_count) or not one.gpu_count]
        if wants.gpu_count and wants.gpu_type is not None:
            candidates = [one for one in candidates if is_gpu(one, wants.gpu_type)]
            if not candidates:
                return f"{text}{self._gpu_types(wants.gpu_type)}"
        if not candidates:
            return text
        most = [max(candidates, key=key) for key in (_memory, _gpus, _cpus)]
        return f"{text}; the largest: {', '.join(dict.fromkeys(map(str, most)))}"

    def _gpu_types(self, wanted: str) -> str:
        types = {one.gpu_type: _parse_gpu(one.gpu_type)[0] for one in self._machines if one.gpu_type}
        sizes = {(one.gpu_type, one.gpu_memory_bytes) for one in self._machines if one.gpu_type}
        is_known = _parse_gpu(wanted)[0] in types.values()
        guess = "" if is_known else did_you_mean(wanted.upper(), types)
        shown = [f"{name} ({shown_size(memory)})" if memory else name for name, memory in sorted(sizes)]
        return f"{guess}; types of GPUs: {', '.join(shown)}"


def _memory(machine: Machine) -> tuple[float, float]:
    return machine.memory_bytes, machine.cpu_count


def _gpus(machine: Machine) -> tuple[float, float]:
    return machine.gpu_count, machine.memory_bytes


def _cpus(machine: Machine) -> tuple[float, float]:
    return machine.cpu_count, machine.memory_bytes


def _order(machine: Machine) -> tuple[object, ...]:
    size = machine.cpu_count + machine.memory_bytes / 2**30 / _GIB_PER_CPU
    return (
        machine.is_named_only,
        machine.gpu_count,
        not machine.is_preferred,
        machine.gpu_memory_bytes,
        size,
        -machine.generation,
        machine.name,
    )


def is_gpu(machine: Machine, wanted: str) -> bool:
    """Return whether a machine has the GPU that a step names.

    Spellings of the large clouds are the same GPU: ``A100``, ``a100``, ``NVIDIA_TESLA_A100``,
    ``nvidia-a100-80gb``. A name without a size of memory stands for every size.
    """
    words, memory_gb = _parse_gpu(wanted)
    own_words, own_memory_gb = _parse_gpu(machine.gpu_type)
    if not machine.gpu_count or words != own_words:
        return False
    if memory_gb is None or not (own_memory_gb or machine.gpu_memory_bytes):
        return True
    own_gb = own_memory_gb or machine.gpu_memory_bytes / 2**30
    return abs(own_gb - memory_gb) <= 0.15 * memory_gb  # an L4 of 24 GB has 22.4 GiB


def _parse_gpu(name: str) -> tuple[frozenset[str], int | None]:
    """Return the words that tell a GPU apart, and the size of its memory in GB if the name has one."""
    memory_gb = None
    words = set()
    for word in re.split(r"[^A-Z0-9]+", name.upper()):
        if size := _MEMORY.fullmatch(word):
            memory_gb = int(size[1])
        elif word and word not in _FILLERS and not _VARIANT.fullmatch(word):
            words.add(word)
    return frozenset(words), memory_gb
