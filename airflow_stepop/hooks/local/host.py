"""The resources of this host, and the checks of a step's demands against them, for ``LocalStepHook``."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_stepop.core.units import shown_room
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.local.literals import no_image, no_nodes
from airflow_stepop.hooks.local.supervisor.gpus import (
    VISIBLE,
    Gpu,
    GpusNotFoundError,
    describe,
    find_gpus,
    has_gpus,
    matching,
)
from airflow_stepop.job import Finding
from airflow_stepop.runner.ownership import NotPrivateError, remarks, take_folder
from airflow_stepop.runner.protocol import ENV_CACHE

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import Gpus
    from airflow_stepop.job import StepSpec

SHM = Path("/dev/shm")  # noqa: S108 - only its free space is read
CGROUP_MEMORY_MAX = Path("/sys/fs/cgroup/memory.max")

# Environment variables of Airflow, which the step must not inherit.
PRIVATE_ENV_PREFIXES = ("AIRFLOW", "_AIRFLOW", "__AIRFLOW", "STEPOP")
PRIVATE_ENV = frozenset({"PYTHONHOME", "PYTHONSTARTUP"})


@dataclass(frozen=True)
class HostFacts:
    """Facts of this host that do not change while Airflow runs.

    :param cpu_count: CPUs that this process may use
    :param memory_bytes: memory of the host or of the container, whichever is smaller
    :param python: interpreter that runs steps by default
    :param has_gpus: whether this host may have NVIDIA GPUs
    :param environ: environment of the worker
    """

    cpu_count: int
    memory_bytes: int
    python: str
    has_gpus: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)

    @cached_property
    def gpus(self) -> list[Gpu]:
        """The GPUs that steps may use. Read only if a step asks for one, because the driver may take seconds.

        :raises GpusNotFoundError: the driver cannot list the GPUs
        """
        return find_gpus(self.environ) if self.has_gpus else []

    @classmethod
    def read(cls) -> HostFacts:
        """Return the facts of this host, or of the container in which this process runs."""
        is_linux = hasattr(os, "sched_getaffinity")
        cpu_count = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
        return cls(cpu_count, _memory_bytes(), sys.executable, has_gpus(os.environ))


def impossible(spec: StepSpec, host: HostFacts) -> Iterator[str]:
    """Yield a message for each demand that ``host`` can never satisfy. A message says what would work."""
    wants, cpus = spec.resources, host.cpu_count
    if spec.image is not None:
        yield no_image(spec.image)
    if wants.cpu_count is not None and wants.cpu_count > cpus:
        yield f"cpu_count={wants.cpu_count:g}: this host has {cpus}; {_ask_for_at_most(cpus)}"
    if wants.memory_bytes is not None and wants.memory_bytes > host.memory_bytes:
        has = shown_room(host.memory_bytes)
        yield f"memory={wants.memory!r}: this host has {has}; {_ask_for_at_most(has)}"
    yield from _impossible_gpus(spec, host)
    if wants.nodes is not None and wants.nodes > 1:
        yield no_nodes(wants.nodes)


def _impossible_gpus(spec: StepSpec, host: HostFacts) -> Iterator[str]:
    count, kind = spec.resources.gpu_count or 0, spec.resources.gpu_type
    if not count:
        return
    asked = f"gpu_count={count}" + (f" with gpu_type={kind!r}" if kind else "")
    try:
        gpus = host.gpus
    except GpusNotFoundError as error:
        yield f"{asked}: this host's GPUs cannot be listed: {error}; fix the driver, or use a remote backend"
        return
    fitting = matching(gpus, kind)
    if count > len(fitting):
        advice = _ask_for_at_most(len(fitting)) if fitting else "leave it out, or use a remote backend"
        if gpus and not fitting:
            advice = "name a type that this host has, or use a remote backend"
        yield f"{asked}: this host has {describe(gpus)}; {advice}"
    if count > 1 and any(gpu.visible == gpu.id for gpu in fitting if " MIG " in gpu.name):
        yield f"{asked}: a process can use only one part of a divided GPU (MIG) with CUDA; use gpu_count=1"
    if VISIBLE in spec.env:
        yield f"{asked}: env sets {VISIBLE}, but gpu_count sets this variable too; leave out one of them"


def chosen_gpus(spec: StepSpec, host: HostFacts) -> Gpus:
    """Return how many GPUs the step gets, and the GPUs to choose from.

    Under ``[stepop] backend_override``, a step that asks for more GPUs than the host has gets fewer.
    """
    count = spec.resources.gpu_count or 0
    try:
        devices = matching(host.gpus, spec.resources.gpu_type) if count else []
        if count > len(devices) and host.gpus:  # overridden: for development another type is better than none
            devices = host.gpus
    except GpusNotFoundError:
        devices = []
    return {"count": min(count, len(devices)), "devices": [list(device) for device in devices]}


def no_room(spec: StepSpec, folder: Path) -> Iterator[str]:
    """Yield a message for each demand for space that cannot be satisfied now: disk and shared memory.

    :param folder: folder of the jobs, on the disk whose free space counts
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    for name, wanted, place in (
        ("disk", spec.resources.disk_bytes, existing),
        ("shm", spec.resources.shm_bytes, SHM),
    ):
        if wanted is None:
            continue
        free = shutil.disk_usage(place).free if place.exists() else 0
        if wanted > free:
            has, asked = shown_room(free), getattr(spec.resources, name)
            yield f"{name}={asked!r}: {place} has {has} free; make room, or {_ask_for_at_most(has)}"


def step_environment(environ: Mapping[str, str], *, is_own_python: bool) -> dict[str, str]:
    """Return the environment that a step inherits from the worker, without the variables of Airflow.

    :param is_own_python: whether the step runs with the worker's interpreter; else it gets no ``PYTHONPATH``
    """
    return {
        name: value
        for name, value in environ.items()
        if (name == ENV_CACHE or not name.startswith(PRIVATE_ENV_PREFIXES))
        and name not in PRIVATE_ENV
        and (is_own_python or name != "PYTHONPATH")
    }


def is_program(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK)


def own_folder(folder: Path) -> None:
    """Make the folder of the jobs, or take an existing one that no other user may change or replace.

    :raises StepConfigError: another user may, so jobs that lie there could be somebody else's
    :raises OSError: the folder cannot be made or written
    """
    try:
        take_folder(str(folder), is_strict=True)
    except NotPrivateError as error:
        raise StepConfigError(f"jobs are not kept in {folder}: {error}; {_FOLDER_FIX}") from None


def check_folder(folder: Path) -> Iterator[Finding]:
    """Check whether files can be written and locked in ``folder``, and whether other users may change it."""
    try:
        take_folder(str(folder), is_strict=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        is_open = isinstance(error, NotPrivateError)
        fix = _FOLDER_FIX if is_open else "set [stepop] local_folder to a folder on a local disk"
        yield Finding(False, "folder", f"jobs cannot be kept in {folder}: {error}", fix)
        return
    yield Finding(True, "folder", f"jobs are kept in {folder}")
    for remark in remarks(str(folder)):
        yield Finding(True, "access", remark)


def check_lock_folder(folder: str) -> Iterator[Finding]:
    """Check whether other users may change the folder with the locks of GPUs. One that is missing is made."""
    try:
        take_folder(folder, is_strict=True)
    except OSError as error:
        fix = f"remove {folder}, or let the administrator of the host do it: another user may have made it"
        yield Finding(False, "gpus", f"steps with GPUs cannot start: {error}", fix)


_FOLDER_FIX = "set [stepop] local_folder to a folder of this user, below one of this user or of root"


def _ask_for_at_most(amount: object) -> str:
    return f"ask for at most {amount}, or use a remote backend"


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = CGROUP_MEMORY_MAX.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
