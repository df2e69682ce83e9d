"""NVIDIA GPUs of this host: which GPUs there are, and locks that give each GPU to one step at a time.

No process assigns the GPUs. A supervisor that needs GPUs takes one lock per GPU; the kernel releases the
locks when the supervisor dies. All Airflow installations of a user share the folder of the locks. ``host.py``
lists the GPUs, ``job.py`` takes the locks. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from binascii import crc32
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.hooks.local.supervisor.state import make_tmp
from airflow_stepop.runner.ownership import take_folder

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import Gpus

# Not below $TMPDIR: all Airflow processes of this user must use one folder. GpuLocks.take refuses a folder
# that another user has made.
LOCK_FOLDER = f"/tmp/stepop-gpus-{os.getuid()}"  # noqa: S108
KEEP_S = 3600.0  # time between two updates of the lock files' dates; see GpuLocks.keep
VISIBLE = "CUDA_VISIBLE_DEVICES"

_WORD = re.compile(r"[a-z0-9.]+")
_GPU = re.compile(r"GPU (\d+): (.*) \(UUID: (\S+)\)")
_MIG = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)")


class Gpu(NamedTuple):
    """One GPU, or one part (MIG) of a divided GPU.

    :param id: the UUID, or the number if the UUID is unknown
    :param visible: word for it in CUDA_VISIBLE_DEVICES
    :param name: NVIDIA's name of the type; empty if unknown
    """

    id: str
    visible: str
    name: str


class GpusNotFoundError(Exception):
    """The driver cannot list the GPUs."""


def find_gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs of this host that ``CUDA_VISIBLE_DEVICES`` in ``environ`` allows, if it is set.

    :raises GpusNotFoundError: ``nvidia-smi`` fails
    """
    import shutil

    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    found = _listed(program) if program else [Gpu(number, number, "") for number in _device_numbers()]
    return list(_visible(found, environ[VISIBLE])) if VISIBLE in environ else found


def has_gpus(environ: Mapping[str, str]) -> bool:
    """Return whether this host may have GPUs. The function is fast: it does not call the driver."""
    import shutil

    return bool(shutil.which("nvidia-smi", path=environ.get("PATH")) or _device_numbers())


def parse_list(text: str) -> list[Gpu]:
    """Return the GPUs in the output of ``nvidia-smi -L``. The parts of a divided GPU replace the GPU."""
    found: list[Gpu] = []
    whole: Gpu | None = None
    for line in text.splitlines():
        if match := _GPU.fullmatch(line.strip()):
            whole = Gpu(match[3], match[1], match[2])
            found.append(whole)
        elif (match := _MIG.fullmatch(line.rstrip())) and whole is not None:
            if found[-1] is whole:
                found.pop()
            found.append(Gpu(match[2], match[2], f"{whole.name} MIG {match[1]}"))
    return found


def matching(gpus: Sequence[Gpu], wanted: str | None) -> list[Gpu]:
    """Return the GPUs whose name contains every word of ``wanted``: "A100" matches every kind of A100."""
    words = {*_WORD.findall((wanted or "").lower())} - {"nvidia"}
    return [gpu for gpu in gpus if words <= _words(gpu.name)]


def _words(name: str) -> set[str]:
    """Return the words of ``name``, and each pair of neighbours as one word: people write RTX4090."""
    words = _WORD.findall(name.lower())
    return {*words, *map("".join, pairwise(words))}


def describe(gpus: Sequence[Gpu]) -> str:
    """Return the number of GPUs of each type as text: ``2 (2 x NVIDIA A100-SXM4-40GB)``."""
    names = [gpu.name for gpu in gpus if gpu.name]
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return f"{len(gpus)} ({kinds})" if kinds else str(len(gpus) or "none")


def _listed(program: str) -> list[Gpu]:
    import subprocess

    try:
        done = subprocess.run([program, "-L"], capture_output=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise GpusNotFoundError(f"{program} -L: {error}") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        why = (text + done.stderr.decode(errors="replace")).strip() or "no message"
        raise GpusNotFoundError(f"{program} -L ended with exit code {done.returncode}: {why}")
    return parse_list(text)


def _device_numbers() -> list[str]:
    try:
        names = os.listdir("/dev")
    except OSError:
        return []
    return sorted((name[6:] for name in names if re.fullmatch(r"nvidia\d+", name)), key=int)


def _visible(gpus: Sequence[Gpu], value: str) -> Iterator[Gpu]:
    """Yield the GPUs that CUDA would see for this value. CUDA stops at the first word that names no GPU."""
    for word in value.replace(" ", "").split(","):
        gpu = next((g for g in gpus if word in (g.visible, g.id)), None)
        if gpu is None and len(word) > len("GPU-"):
            gpu = next((g for g in gpus if g.id.startswith(word)), None)
        if gpu is None:
            return
        yield gpu


class GpuLocks:
    """The locks of one step on the GPUs that it uses.

    A supervisor that was killed may leave processes behind that still use its GPUs. So the holder of a lock
    writes its step's nonce into the lock file, and empties the file when no process of the step is left. If
    the next holder finds a nonce, it first kills the processes of that step.

    :param wanted: ``{"count": n, "devices": [[id, visible, name], ...]}``
    :param nonce: the step's nonce
    :param kill_left_over: kills every process of the step with the nonce that it is called with
    """

    def __init__(self, wanted: Gpus, nonce: str, kill_left_over: Callable[[str], object]) -> None:
        self._count: int = wanted["count"]
        self._devices = [Gpu(*device) for device in wanted["devices"]]
        self._nonce = nonce
        self._kill_left_over = kill_left_over
        self._queue: int | None = None
        self._taken: dict[Gpu, int] = {}
        self._kept_at = time.monotonic()

    def __str__(self) -> str:
        return f"{self._count} of the GPUs of this host: {describe(self._devices)}"

    def take(self) -> bool:
        """Try to take all GPUs that the step needs. Return whether the step has them.

        The step never keeps a part of its GPUs while it waits: two steps could wait for each other for ever.
        Steps that want GPUs of the same type wait in a queue, which is a lock too. So a step that wants many
        GPUs is not overtaken for ever.
        """
        if len(self._taken) == self._count:
            return True
        if self._queue is None:
            take_folder(LOCK_FOLDER, is_strict=True)
            make_tmp(LOCK_FOLDER)
            self._queue = _lock(f"queue-{crc32(repr(self._devices).encode()):08x}")
        if self._queue is None:
            return False
        for device in self._devices:
            if len(self._taken) < self._count:
                self._try(device)
        if len(self._taken) < self._count:
            self._let_go()
            return False
        for fd in self._taken.values():
            self._sign(fd)
        os.close(self._queue)
        return True

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make CUDA see the step's GPUs and no others."""
        if not self._count:
            return {}
        visible = ",".join(device.visible for device in self._taken)
        return {VISIBLE: visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def keep(self) -> None:
        """Update the dates of the lock files, once an hour. Call this method regularly.

        Many hosts remove files in /tmp that have not been used for days.
        """
        if self._taken and time.monotonic() - self._kept_at > KEEP_S:
            self._kept_at = time.monotonic()
            for fd in self._taken.values():
                os.utime(fd)

    def release(self) -> None:
        """Release the GPUs. Call this method when no process of the step runs any more."""
        for fd in self._taken.values():
            os.ftruncate(fd, 0)
        self._let_go()

    def _try(self, device: Gpu) -> None:
        fd = _lock(re.sub(r"[^\w.-]", "_", device.id))
        if fd is not None:
            self._taken[device] = fd

    def _sign(self, fd: int) -> None:
        left_over = os.pread(fd, 256, 0).decode(errors="replace")
        if left_over and left_over != self._nonce:
            self._kill_left_over(left_over)
        os.ftruncate(fd, 0)
        os.pwrite(fd, self._nonce.encode(), 0)

    def _let_go(self) -> None:
        for fd in self._taken.values():
            os.close(fd)
        self._taken = {}


def _lock(name: str) -> int | None:
    """Return a descriptor that holds the lock of this name, or ``None`` if another process holds it."""
    path = os.path.join(LOCK_FOLDER, name)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # another process has removed the file: no other process would see this lock
