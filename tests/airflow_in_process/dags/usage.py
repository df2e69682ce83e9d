"""Steps that use what they were told to."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, ResourceSettings

SMALL = ResourceSettings(cpu_count=1, memory="256MiB")

with DAG("usage", schedule=None, default_args={"retries": 0}):

    @task.remote_step(resource_settings=SMALL)
    def holds(mib, **after):
        data = bytearray(mib * 1024 * 1024)
        for at in range(0, len(data), 4096):
            data[at] = 1
        time.sleep(mib // 400)  # long enough to be seen
        if after.get("fails"):
            raise ValueError("after it held them")
        return len(data)

    first = holds(100)
    holds.override(task_id="fails")(100, fails=True)
    holds.override(task_id="too_much")(400)
    holds.override(task_id="no_xcom", do_xcom_push=False)(10)
    holds.override(task_id="mapped").expand(mib=[10, 120])
    RemoteStepOperator(task_id="nothing_asked", command=["true"])
    RemoteStepOperator(task_id="too_long", command=["sleep", "60"], timeout=timedelta(seconds=1))

    @task.remote_step(multiple_outputs=True)
    def own_usage():
        return {"usage": "the step's own", "other": 1}

    own_usage()

    @task
    def reads(ti=None):
        return ti.xcom_pull(task_ids="holds", key="usage")["peak_memory_bytes"]

    first >> reads()
