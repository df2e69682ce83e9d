"""DAG and task names with letters of many alphabets."""

from __future__ import annotations

from airflow.sdk import DAG, task

NAME = ("ünï-çødé.漢字_" * 30)[:100]  # part of the log's path: a folder's name has at most 255 bytes

with DAG(NAME, schedule=None, default_args={"retries": 0}):

    @task.remote_step(task_id=NAME)
    def large():
        return b"x" * 100_000

    @task.remote_step(deferrable=True)
    def check(found):
        assert found == b"x" * 100_000

    check(large())
