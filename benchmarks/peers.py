"""Measures peers: what they run for a task that does nothing, and the bytes that they ship.

``cases.py`` calls the public functions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import environment, repeated

FLOW = """
import os, time
from metaflow import FlowSpec, step

class Noop(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        with open(os.environ["STEPOP_BENCH_OUT"], "w") as file:
            file.write(str(time.process_time()))

if __name__ == "__main__":
    Noop()
"""
SUBMITIT = """
import sys, time
import submitit
executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="local")
executor.update_parameters(timeout_min=1)
print(executor.submit(time.process_time).result())
"""
EXTERNAL = """
import resource, sys
from airflow.providers.standard.operators.python import ExternalPythonOperator
from airflow.sdk import DAG

def nothing():
    return None

with DAG("bench", schedule=None):
    task = ExternalPythonOperator(
        task_id="t", python=sys.argv[1], python_callable=nothing, expect_airflow=False
    )
task._bundle_path = None  # execute() sets it in a worker
task.execute_callable()
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime)
"""


def metaflow_step_s(folder: Path) -> float:
    """Return the CPU seconds of the process of a Metaflow step until its code begins."""
    out = folder / "process_time"

    def run() -> float:
        _metaflow(folder, "run", STEPOP_BENCH_OUT=str(out))
        return float(out.read_text())

    return repeated(run)


def metaflow_package_bytes(folder: Path) -> int:
    """Return the size of the code package that Metaflow uploads for a flow of one file."""
    _metaflow(folder, "package", "save", "package.tgz")
    return (folder / "package.tgz").stat().st_size


def _metaflow(folder: Path, *words: str, **env: str) -> None:
    flow = folder / "flow" / "flow.py"
    flow.parent.mkdir(exist_ok=True)
    flow.write_text(FLOW)
    own = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder), "METAFLOW_HOME": str(folder), "USERNAME": "bench"}
    _run([sys.executable, str(flow), "--quiet", *words], {**own, **env}, folder)


def submitit_task_s(folder: Path) -> float:
    """Return the CPU seconds of the process of a submitit job until its function begins."""
    return repeated(lambda: _last_number([sys.executable, "-c", SUBMITIT, str(folder / "submitit")]))


def external_python_s(folder: Path) -> float:
    """Return the CPU seconds of the process of ``@task.external_python``, in a Python without Airflow."""
    file = folder / "external.py"  # a file, because the operator ships the source of the function
    file.write_text(EXTERNAL)
    python = str(getattr(sys, "_base_executable", sys.executable))
    return repeated(lambda: _last_number([sys.executable, str(file), python]))


def _last_number(argv: list[str]) -> float:
    return float(_run(argv, {}).splitlines()[-1])


def _run(argv: list[str], env: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run(
        argv, env={**environment(), **env}, cwd=folder or os.getcwd(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout
