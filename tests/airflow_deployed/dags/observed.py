"""Steps for the tests of metrics and traces, one in the worker and one in the triggerer."""

from __future__ import annotations

import os

from airflow.sdk import dag, task


@dag(schedule=None)
def observed():
    @task.remote_step(deferrable=True)
    def waits_in_the_triggerer():
        return os.environ.get("TRACEPARENT")

    @task.remote_step(env={"TRACEPARENT": "mine"})
    def waits_in_the_worker():
        return os.environ["TRACEPARENT"]

    waits_in_the_triggerer()
    waits_in_the_worker()


observed()
