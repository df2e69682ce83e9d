"""NVIDIA GPUs of this host: which there are, and giving each to one step at a time. Standard library only.

Nobody hands them out: a supervisor that needs some takes a lock per GPU, which the kernel lets go when it
dies. The locks lie in a folder of this user, whatever Airflow they come from.
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

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import Gpus

# Not $TMPDIR: all Airflow processes of this user must agree. make_tmp sees to it that it is theirs.
LOCK_FOLDER = f"/tmp/stepop-gpus-{os.getuid()}"  # noqa: S108
KEEP_S = 3600.0  # tidy hosts remove files in /tmp that nobody has touched for days
VISIBLE = "CUDA_VISIBLE_DEVICES"

_WORD = re.compile(r"[a-z0-9.]+")
_GPU = re.compile(r"GPU (\d+): (.*) \(UUID: (\S+)\)")
_MIG = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)")


class Gpu(NamedTuple):
    """One GPU, or one part (MIG) of a GPU that is divided.

    :param id: its UUID, or its number where nobody tells the UUID
    :param visible: its name in CUDA_VISIBLE_DEVICES
    """

    id: str
    visible: str
    name: str


class GpusNotFoundError(Exception):
    """The driver does not say which GPUs there are."""


def find_gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that ``environ`` lets us use.

    :raises GpusNotFoundError: there is a driver, and it fails
    """
    import shutil

    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    found = _listed(program) if program else [Gpu(number, number, "") for number in _device_numbers()]
    return list(_visible(found, environ[VISIBLE])) if VISIBLE in environ else found


def has_gpus(environ: Mapping[str, str]) -> bool:
    """Return whether there may be some, without waking a driver."""
    import shutil

    return bool(shutil.which("nvidia-smi", path=environ.get("PATH")) or _device_numbers())


def parse_list(text: str) -> list[Gpu]:
    """Return what ``nvidia-smi -L`` has printed; a divided GPU is replaced by its parts."""
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
    """Return the GPUs whose name has every word of ``wanted``: "A100" means each that NVIDIA calls so."""
    words = {*_WORD.findall((wanted or "").lower())} - {"nvidia"}
    return [gpu for gpu in gpus if words <= _words(gpu.name)]


def _words(name: str) -> set[str]:
    """Return the words of ``name``, and each two as one: people write RTX4090."""
    words = _WORD.findall(name.lower())
    return {*words, *map("".join, pairwise(words))}


def describe(gpus: Sequence[Gpu]) -> str:
    """Return how many there are of which kind: ``2 (2 x NVIDIA A100-SXM4-40GB)``."""
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
    """Yield what CUDA would see: it stops at the first word that means none."""
    for word in value.replace(" ", "").split(","):
        gpu = next((g for g in gpus if word in (g.visible, g.id)), None)
        if gpu is None and len(word) > len("GPU-"):
            gpu = next((g for g in gpus if g.id.startswith(word)), None)
        if gpu is None:
            return
        yield gpu


class GpuLocks:
    """What one step has of the GPUs that it may use.

    A supervisor that was killed may leave processes behind that still use its GPUs. So each lock file has the
    nonce of its holder until that is done, and whoever finds one ends what is left first.

    :param wanted: ``{"count": n, "devices": [[id, visible, name], ...]}``
    :param nonce: the step's
    :param kill_left_over: ends every process of the step with that nonce
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
        """Return whether this step has all of its GPUs now. Not some: two could wait for each other.

        Those that want the same kind stand in a queue, so that one who wants many gets them some day.
        """
        if len(self._taken) == self._count:
            return True
        if self._queue is None:
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
        """Return what makes CUDA see these and no others."""
        if not self._count:
            return {}
        visible = ",".join(device.visible for device in self._taken)
        return {VISIBLE: visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def keep(self) -> None:
        """Keep the lock files from being tidied away; to be called now and then."""
        if self._taken and time.monotonic() - self._kept_at > KEEP_S:
            self._kept_at = time.monotonic()
            for fd in self._taken.values():
                os.utime(fd)

    def release(self) -> None:
        """Give back what was taken: nothing of the step runs any more."""
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
    """Return a descriptor that holds the lock of that name; ``None`` when somebody else has it."""
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
        os.close(fd)  # it was removed meanwhile: a lock that nobody else could see
