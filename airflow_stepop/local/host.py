"""What this host has to give, and what of a step's wishes it can never honour."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_stepop.resources import format_size

if TYPE_CHECKING:
    from airflow_stepop.job import StepSpec

SHM = Path("/dev/shm")  # noqa: S108 - its size is asked for, nothing is written
CGROUP_MEMORY_MAX = Path("/sys/fs/cgroup/memory.max")
MIB = 1024 * 1024


@dataclass(frozen=True)
class HostFacts:
    """What does not change while Airflow runs.

    :param python: interpreter that runs steps unless they name another one
    """

    cpu_count: int
    memory_bytes: int
    gpu_count: int
    python: str

    @classmethod
    def read(cls) -> HostFacts:
        """Return the facts of this host, or of the container that we are in."""
        is_linux = hasattr(os, "sched_getaffinity")
        cpu_count = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
        return cls(cpu_count, _memory_bytes(), len(list(Path("/dev").glob("nvidia[0-9]*"))), sys.executable)


def impossible(spec: StepSpec, host: HostFacts) -> Iterator[str]:
    """Yield what ``host`` can never honour, each with what would work."""
    wants, cpus = spec.resources, host.cpu_count
    if spec.image is not None:
        yield f"image={spec.image!r}: the local backend runs on this host without containers; leave image out"
    if wants.cpu_count is not None and wants.cpu_count > cpus:
        yield f"cpu_count={wants.cpu_count:g}: this host has {cpus}; {_ask_for_at_most(cpus)}"
    if wants.memory_bytes is not None and wants.memory_bytes > host.memory_bytes:
        has = _whole_mib(host.memory_bytes)
        yield f"memory={wants.memory!r}: this host has {has}; {_ask_for_at_most(has)}"
    if wants.gpu_count:
        has = f"{host.gpu_count}, and local does not hand out GPUs yet" if host.gpu_count else "none"
        yield f"gpu_count={wants.gpu_count}: this host has {has}; leave it out, or use a remote backend"
    if wants.gpu_type is not None:
        yield f"gpu_type={wants.gpu_type!r}: local does not hand out GPUs yet; use a remote backend"
    if wants.nodes is not None and wants.nodes > 1:
        yield f"nodes={wants.nodes}: the local backend is one host; use nodes=1, or a remote backend"


def no_room(spec: StepSpec, folder: Path) -> Iterator[str]:
    """Yield what this host cannot honour now: space in ``folder``, where jobs live, and shared memory."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    for name, wanted, place in (
        ("disk", spec.resources.disk_bytes, existing),
        ("shm", spec.resources.shm_bytes, SHM),
    ):
        if wanted is None:
            continue
        free = shutil.disk_usage(place).free if place.exists() else 0
        if wanted > free:
            has, asked = _whole_mib(free), getattr(spec.resources, name)
            yield f"{name}={asked!r}: {place} has {has} free; make room, or {_ask_for_at_most(has)}"


def _ask_for_at_most(amount: object) -> str:
    return f"ask for at most {amount}, or use a remote backend"


def _whole_mib(count: int) -> str:
    return format_size(count // MIB * MIB)


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = CGROUP_MEMORY_MAX.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
