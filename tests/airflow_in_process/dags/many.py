"""Many values at once."""

from __future__ import annotations

import os

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"retries": 0})
def many():
    @task.remote_step(multiple_outputs=True)
    def objects():
        return {f"part_{index}": {os.urandom(10_000)} for index in range(200)}

    @task
    def check_one(one, other):
        assert [len(next(iter(found))) for found in (one, other)] == [10_000] * 2

    @task.remote_step
    def listed():
        return [{os.urandom(10_000)} for _ in range(20)]

    @task
    def check_each(item):
        assert len(next(iter(item))) == 10_000

    @task.remote_step(multiple_outputs=True)
    def numbers():
        return {f"n{index}": index / 3 for index in range(200)}

    parts = objects()
    check_one(parts["part_0"], parts["part_199"])
    check_each.expand(item=listed())
    numbers()


many()
