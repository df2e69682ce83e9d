"""A DAG whose first step returns a large result that the second step reads. ``memory.py`` runs it.

The worker only passes on the reference to the result.
"""

from __future__ import annotations

import os

from airflow.sdk import dag, task

SIZE = int(os.environ.get("STEPOP_BENCH_BYTES", "1024"))


@dag(schedule=None, catchup=False)
def gigabyte():
    @task.remote_step
    def make(size: int):
        import numpy

        return numpy.ones(size // 8)

    @task.remote_step
    def measure(array) -> int:
        return array.nbytes

    measure(make(SIZE))


gigabyte()
