"""Steps whose arguments are templates over ``dag_run.conf``: whoever triggers the DAG chooses."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

from airflow_stepop import remote_step


def chosen(name):
    return "{{ dag_run.conf['" + name + "'] }}"


with DAG("triggered", schedule=None, default_args={"retries": 0}):

    @remote_step
    def told():
        return dict(os.environ)

    @remote_step
    def large():
        return b"x" * 200_000

    @task
    def length(data):
        return len(data)

    told.override(task_id="fixed", backend="local")()
    told.override(task_id="backend", backend=chosen("backend"))()
    told.override(task_id="other_backend", backend=chosen("other_backend"))()
    told.override(task_id="connection", backend="local", conn_id=chosen("connection"))()
    told.override(task_id="for_another", backend="local", conn_id=chosen("for_another"))()
    told.override(task_id="text", backend="local", env={"TEXT": chosen("text")})()
    length(large.override(task_id="store", store=chosen("store"))())
    large.override(task_id="elsewhere", store=chosen("elsewhere"))()
    large.override(task_id="of_connection", store=chosen("of_connection"))()
