"""An array through the object storage of Airflow's XComs, in a program with a configuration of its own."""

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
    """What it took to store an array and to read it again."""

    seconds: float
    memory_bytes: int


def pass_array(size: int, path: str, env: dict[str, str] | None = None) -> Passed:
    """Store an array and read it, there and back.

    :param size: bytes of the array
    :param path: where Airflow's object storage lies, such as ``file:///tmp/x`` or ``s3://conn@bucket/x``
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
        # it stores JSON, so an array has to become a list first
        stored = XComObjectStorageBackend.serialize_value(value.tolist(), key=key, **NAMES)
        value = numpy.array(XComObjectStorageBackend.deserialize_value(SimpleNamespace(value=stored)))
    print(json.dumps([time.monotonic() - begin, _peak_bytes() - before]))


def _peak_bytes() -> int:
    """Return the peak of this program alone: what ``getrusage`` says begins with that of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
