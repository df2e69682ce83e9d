"""Measures an array that passes through the object storage of Airflow's XComs.

``data.py`` and ``memory.py`` call :func:`pass_array`. The function runs this module as a program, because the
object storage needs its own Airflow configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAMES = {"task_id": "t", "dag_id": "d", "run_id": "r", "map_index": -1}


@dataclass(frozen=True)
class Passed:
    """Seconds and peak memory of storing an array and reading it, twice."""

    seconds: float
    memory_bytes: int


def pass_array(size: int, path: str, env: dict[str, str] | None = None) -> Passed:
    """Store an array and read it, for the way there and for the way back.

    :param size: bytes of the array
    :param path: address of Airflow's object storage, such as ``file:///tmp/x`` or ``s3://conn@bucket/x``
    """
    own = {
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": path,
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
    }
    argv = [sys.executable, "-m", "benchmarks.xcom", str(size)]
    done = subprocess.run(argv, env={**os.environ, **(env or {}), **own}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return Passed(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    import numpy
    from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend

    value: Any = numpy.random.default_rng(7).random(int(sys.argv[1]) // 8)
    before, begin = _peak_bytes(), time.monotonic()
    for key in ("there", "back"):
        # The storage holds JSON, so the array must be converted to a list
        stored = XComObjectStorageBackend.serialize_value(value.tolist(), key=key, **NAMES)
        value = numpy.array(XComObjectStorageBackend.deserialize_value(SimpleNamespace(value=stored)))
    print(json.dumps([time.monotonic() - begin, _peak_bytes() - before]))


def _peak_bytes() -> int:
    """Return the peak memory of this program. ``getrusage`` would include the peak of the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
