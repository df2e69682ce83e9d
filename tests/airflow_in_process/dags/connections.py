"""Steps whose connections give what the tasks leave out."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, ResourceSettings, remote_step

with DAG("connections", schedule=None, default_args={"retries": 0, "env": {"FROM": "default_args"}}):

    @remote_step(conn_id="here")
    def told(*names):
        return {name: os.environ.get(name) for name in names}

    @remote_step(conn_id="here")
    def large():
        return b"x" * 200_000

    names = ("FROM", "LEVEL", "ONLY")
    told(*names)
    told.override(task_id="own", env={"FROM": "task", "LEVEL": "debug"})(*names)
    told.override(task_id="hidden", env=None, secrets={"LEVEL": "{{ conn.here.password }}"})(*names)

    @task
    def length(data):
        return len(data)

    @remote_step
    def first(data):
        return data[:1].decode()

    value = large()
    length(value)
    first(value)
    large.override(task_id="own_store", store=os.environ.get("STEPOP_TEST_OWN_STORE"))()
    RemoteStepOperator(
        task_id="command", conn_id="here", command=["sh", "-c", "echo $LEVEL > l"], outputs=["l"]
    )
    RemoteStepOperator.partial(task_id="commands", conn_id="here", outputs=["l"]).expand(
        command=[["sh", "-c", f"echo {word} $LEVEL > l"] for word in ("a", "b")]
    )
    # what a connection may give is no error when the file is read
    told.override(task_id="completed", resource_settings=ResourceSettings(gpu_type="A100"))()
    told.override(task_id="more_memory", on_oom={"cap": "1GiB"}, retries=1)()

    for conn_id in ("misspelt", "with_image", "with_endpoints", "bad_store", "bad_setting"):
        told.override(task_id=conn_id, conn_id=conn_id)()
    told.override(task_id="contradicts", backend="local", conn_id="other_backend")()
