"""A DAG of tasks that do nothing, one after the other. ``benchmarks/latency.py`` runs it.

The duration of a task is the cost of its way to run.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from airflow.sdk import BaseOperator, chain, dag, task


class DeferOnce(BaseOperator):
    """The minimum for a deferred task in Airflow: its trigger fires at once."""

    def execute(self, context):
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="resume")

    def resume(self, context, event=None):
        return None


@dag(schedule=None, catchup=False)
def latency():
    @task
    def plain():
        return None

    @task.remote_step(deferrable=True)
    def step_deferred():
        return None

    @task.remote_step(deferrable=False)
    def step_in_worker():
        return None

    @task.external_python(python=sys.executable)
    def external_python():
        return None

    @task.virtualenv(requirements=[], system_site_packages=False)
    def virtualenv():
        return None

    chain(
        plain(),
        DeferOnce(task_id="defer_once"),
        step_deferred(),
        step_in_worker(),
        external_python(),
        virtualenv(),
    )


latency()
