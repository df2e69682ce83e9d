"""Measures GPU memory with ``nvidia-smi``. :mod:`.meter` imports this module at its first sample."""

from __future__ import annotations

import os
import signal
import time

from .files import quietly

SAMPLE_S = 10.0  # nvidia-smi takes up to a second
_ARGUMENTS = ("--query-gpu=index,uuid,memory.used", "--format=csv,noheader,nounits")
_MIB = 1024 * 1024


class GpuMeter:
    """Samples GPU memory without waiting: one :meth:`sample` starts ``nvidia-smi``, a later one reads it."""

    def __init__(self) -> None:
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        has_none = self._visible is not None and self._visible.strip() in ("", "-1", "NoDevFiles")
        self._program = None if has_none else _find("nvidia-smi")
        self._pid = self._answer = 0
        self._next = 0.0

    def sample(self) -> int:
        """Return the GPU memory in use, in bytes, if ``nvidia-smi`` has answered since the last call; else 0.

        Only devices that the step sees (``CUDA_VISIBLE_DEVICES``) count.
        """
        used = self._read() if self._answer else 0
        if self._program is not None and not self._answer and time.monotonic() >= self._next:
            self._ask(self._program)
        return used

    def stop(self) -> None:
        if self._answer:
            quietly(self._kill)
            os.close(self._answer)
        self._program, self._answer = None, 0

    def _kill(self) -> None:
        if os.waitpid(self._pid, os.WNOHANG) == (
            0,
            0,
        ):  # waitpid fails if the process was reaped: its pid may belong to another process by now
            os.kill(self._pid, signal.SIGKILL)

    def _ask(self, program: str) -> None:
        self._next = time.monotonic() + SAMPLE_S
        self._answer, other_end = os.pipe()
        os.set_blocking(self._answer, False)
        null = os.open(os.devnull, os.O_RDWR)
        streams = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate((null, other_end, null))]
        try:
            self._pid = os.posix_spawn(program, [program, *_ARGUMENTS], os.environ, file_actions=streams)
        except OSError:
            self._program = None
        finally:
            os.close(other_end)
            os.close(null)

    def _read(self) -> int:
        """Return the answer in bytes. The parent's main loop reaps ``nvidia-smi``, as every other child."""
        try:
            text = os.read(self._answer, 1 << 16).decode()
        except BlockingIOError:
            return 0  # nvidia-smi is still running
        os.close(self._answer)
        self._answer = 0
        used = [_used(line, self._visible) for line in text.splitlines()]
        if not used:
            self._program = None  # nvidia-smi does not work here, for example without a driver
        return sum(used)


def _find(name: str) -> str | None:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, name)
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _used(line: str, visible: str | None) -> int:
    """Return the bytes in use of one line of output; 0 for a device that the step does not see."""
    try:
        index, uuid, used = (word.strip() for word in line.split(","))
        is_seen = visible is None or any(
            name in (index, uuid) for name in (word.strip() for word in visible.split(","))
        )
        return int(used) * _MIB if is_seen else 0
    except ValueError:
        return 0
