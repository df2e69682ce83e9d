"""Steps on a backend that has a default connection."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_stepop import RemoteStepOperator

with DAG("lookups", schedule=None, default_args={"retries": 0, "backend": "counted", "command": ["true"]}):
    RemoteStepOperator(task_id="default", deferrable=False)
    RemoteStepOperator(task_id="named", conn_id="counted_named", deferrable=False)
