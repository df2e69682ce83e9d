"""Steps whose machines are taken away."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("spot", schedule=None):

    @task.remote_step(backend="spot")
    def goes_on(number):
        return number + 1

    for category in ("preempted", "no_capacity"):
        settings = {"lost": 3, "category": category}
        goes_on.override(task_id=category, retries=0, settings=settings)(1)
    goes_on.override(task_id="deferred", retries=0, deferrable=True, settings={"lost": 2})(1)
    goes_on.override(task_id="too_often", retries=0, settings={"lost": 4})(1)
    goes_on.override(task_id="recovered", settings={"lost": 5})(1)
    goes_on.override(task_id="infra", retries=0, settings={"lost": 1, "category": "infra"})(1)
