"""Names at their limits, and stores that cannot be used."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

NAME = ("Long-name.of_a_DAG." * 30)[:250]  # other letters: Airflow's in-process API takes none
READ_ONLY = os.environ.get("STEPOP_TEST_READ_ONLY", "")
GONE = "/proc/no/such/folder"


@task.remote_step
def large(size):
    return b"x" * size


@task.remote_step(retries=0)
def rendered(**given):
    return given


with DAG(NAME, schedule=None, default_args={"retries": 0}):

    @task
    def check(found):
        assert found == b"x" * 100_000

    check(large.override(task_id=NAME)(100_000))
    large.override(task_id="gone", store=GONE)(100_000)
    large.override(task_id="gone_and_not_needed", store=GONE)(10)
    rendered.override(task_id="large_argument", backend="kubernetes")(data="x" * 2_000_000)
    large.override(task_id="elsewhere", store="/somewhere/else")(10)
    if READ_ONLY:
        large.override(task_id="read_only", store=READ_ONLY)(100_000)
    rendered.override(task_id="bad_backend", backend="{{ 'lo' ~ 'cla' }}")()
    rendered.override(task_id="bad_setting", settings="{{ {'pyhton': 1} }}")()
    rendered.override(task_id="bad_memory", resource_settings={"memory": "{{ 16 }}"})()
    rendered.override(task_id="bad_include", include="{{ 'data' }}")()
    RemoteStepOperator.partial(task_id="bad_command").expand(command=["true --fast"])
    rendered.override(task_id="too_much_memory", resource_settings={"memory": "1PB"})()
