"""Measures the memory of an Airflow worker while a large result goes from one step to the next.

``__main__.py`` calls :func:`memory_lines`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import BYTES, MIB, SCALED, SHARE
from benchmarks.tables import Line
from benchmarks.xcom import pass_array

GOAL_MIB = 50
DAG = Path(__file__).parent / "dags" / "gigabyte.py"

_RUN = """
import re, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
run = DagBag(sys.argv[1]).dags["gigabyte"].test()
assert run.state == "success", run.state
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def memory_lines() -> Iterator[Line]:
    """Yield the peak MiB of a worker: with a small result, a large result, an XCom in object storage."""
    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as home:
        env = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__DAGS_FOLDER": str(DAG.parent)}
        env |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=env, check=True, capture_output=True)
        small = _peak_of(1024, env)
        yield Line("two steps that pass 1 KiB on", small)
        large = _peak_of(BYTES, env)
        yield Line(f"two steps that pass {BYTES // MIB} MiB on", large, goal=small + GOAL_MIB)
    size = max(BYTES // SHARE, MIB)
    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as folder:
        more = pass_array(size, f"file://{folder}/xcom").memory_bytes / MIB
    yield Line("an XCom in Airflow's object storage", small + more, f"{SCALED} only")


def _peak_of(size: int, env: dict[str, str]) -> float:
    env = {**env, "STEPOP_BENCH_BYTES": str(size)}
    done = subprocess.run([sys.executable, "-c", _RUN, str(DAG)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
    return float(done.stdout.rpartition("peak")[2])
