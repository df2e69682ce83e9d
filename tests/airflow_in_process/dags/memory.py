"""Steps that need more memory than they ask for at first."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_stepop import MoreMemory, RemoteStepRetryPolicy, ResourceSettings

ASKS = ResourceSettings(memory="128MiB")
SOON = RemoteStepRetryPolicy(infra_delay=timedelta(milliseconds=100))

with DAG("memory", schedule=None):

    @task.remote_step(resource_settings=ASKS)
    def holds(mib):
        data = bytearray(mib * 1024 * 1024)
        for at in range(0, len(data), 4096):
            data[at] = 1
        time.sleep(2)  # long enough to be seen
        return len(data)

    once = {"on_oom": MoreMemory(cap="1GiB", factor=4)}
    often = {"on_oom": {"cap": "512MiB", "factor": 2}, "retries": 5, "retry_policy": SOON}
    holds.override(task_id="once", **once)(200)
    holds.override(task_id="twice", **often)(300)
    holds.override(task_id="capped", **often)(700)
    holds.override(task_id="fails", retries=5, retry_policy=SOON)(700)
    holds.override(
        task_id="no_more_tries", **{**often, "on_oom": {"cap": "1GiB", "factor": 1.1}, "retries": 1}
    )(700)
    holds.override(task_id="mapped", **once).expand(mib=[1, 200])
