"""Steps for a cluster that the connection cannot find, or with a template that is missing."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None)
def astray():
    @task.remote_step(backend="kubernetes", conn_id="astray", retries=0)
    def nowhere():
        return 1

    @task.remote_step(
        backend="kubernetes", conn_id="astray", retries=0, settings={"pod_template": "templates/no.yaml"}
    )
    def untemplated():
        return 1

    nowhere()
    untemplated()


astray()
