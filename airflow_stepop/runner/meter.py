"""Measures the step's usage: time, CPU, memory, GPU memory.

The parent process samples while it waits. The child process adds the kernel's figures when the step is done.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from .alarm import Alarm
    from .gpu import GpuMeter
    from .wire import Usage

FIRST_SAMPLE_S = 0.5  # most steps are over before the first sample, so measuring them costs nothing
SAMPLE_S = 1.0
SAMPLE_SHARE = 0.01  # sampling takes at most this share of one CPU

_OWN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
_PAGE_BYTES = mmap.PAGESIZE
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Offsets in the shared memory: two peaks; when an installation began and ended, and the CPU time that it used
_MEMORY, _GPU, _BEGAN, _ENDED, _CPU = range(0, 40, 8)
_NS = 10**9


class Meter:
    """Peaks of memory, which the parent samples, and times, which the kernel keeps.

    Made before the fork: the parent writes the peaks into shared memory, and the child puts them into the
    outcome.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shared = mmap.mmap(-1, 40)
        self._gpu: GpuMeter | None = None
        self._pid = 0
        self._cpu_s = 0.0

    def usage(self, ended: struct_rusage | None = None) -> Usage:
        """Return the usage so far: seconds (``*_s``) and bytes (``*_bytes``).

        :param ended: resource usage of the ended child, in the parent; ``None``: of this process and its
            children
        """
        used = [ended] if ended else list(map(resource.getrusage, _OWN))
        found = {
            "wall_s": round(time.monotonic() - self._started, 3),
            "cpu_s": round(sum(one.ru_utime + one.ru_stime for one in used), 3),
            # the kernel knows the peak of the largest process; sampling sees several processes together
            "peak_memory_bytes": max(self._peak(_MEMORY), *(one.ru_maxrss * _RSS_UNIT for one in used)),
        }
        gpu, began = self._peak(_GPU), self._peak(_BEGAN)
        if began:
            end = self._peak(_ENDED) or time.monotonic_ns()
            found["installing_s"] = round((end - began) / _NS, 3)
            found["cpu_s"] = round(max(found["cpu_s"] - self._peak(_CPU) / _NS, 0), 3)
        return {**found, "peak_gpu_memory_bytes": gpu} if gpu else found

    # -- in the child

    def begin_installing(self) -> None:
        self._cpu_s = _used_cpu_s()
        self._raise(_BEGAN, time.monotonic_ns())

    def end_installing(self) -> None:
        self._raise(_CPU, int((_used_cpu_s() - self._cpu_s) * _NS))
        self._raise(_ENDED, time.monotonic_ns())

    # -- in the parent

    def watch(self, pid: int, alarm: Alarm) -> None:
        """Sample ``pid`` and its descendants from time to time, until the alarm is stopped."""
        self._pid = pid
        if os.path.exists(f"/proc/{pid}/statm"):  # Linux
            alarm.call(FIRST_SAMPLE_S, self._sample)

    def stop(self) -> None:
        if self._gpu is not None:
            self._gpu.stop()

    def _sample(self) -> float:
        """Return the seconds until the next sample."""
        began = time.process_time()  # CPU time: by wall time, samples would become rare on a busy host
        try:
            self._sample_memory()
            self._sample_gpu()
        except Exception:  # noqa: S110 - a measurement that fails must not end the step
            pass
        cost = time.process_time() - began
        return max(SAMPLE_S, cost / SAMPLE_SHARE)

    def _sample_memory(self) -> None:
        pids = _tree(self._pid)
        if len(pids) == 1:
            return  # the kernel keeps the peak of a single process
        peak = self._peak(_MEMORY)
        # PSS counts shared pages once. It is slow to read, so only if the RSS is above the peak
        if sum(map(_resident_bytes, pids)) > peak:
            self._raise(_MEMORY, sum(map(_proportional_bytes, pids)))

    def _sample_gpu(self) -> None:
        if self._gpu is None:
            from .gpu import GpuMeter

            self._gpu = GpuMeter()
        self._raise(_GPU, self._gpu.sample())

    def _peak(self, at: int) -> int:
        return int.from_bytes(self._shared[at : at + 8], "little")

    def _raise(self, at: int, value: int) -> None:
        if value > self._peak(at):
            self._shared[at : at + 8] = value.to_bytes(8, "little")


def _used_cpu_s() -> float:
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, _OWN))


def _tree(pid: int) -> list[int]:
    """Return ``pid`` and its descendants."""
    found, pending = [], [pid]
    while pending:
        pid = pending.pop()
        found.append(pid)
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                    pending += map(int, stream.read().split())
        except OSError:
            continue  # the process has ended, or this kernel has no file "children"
    return found


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            for line in stream:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes(pid)  # the process has ended, or its smaps may not be read
