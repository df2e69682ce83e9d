"""A DAG of tasks that do nothing, one after the other; most of them in a pod of their own.

``benchmarks/kubernetes/latency.py`` runs it.
"""

from __future__ import annotations

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import BaseOperator, chain, dag, task

from airflow_stepop.hooks.kubernetes.manifests import default_image

POD = {"image": default_image(), "cmds": ["true"], "kubernetes_conn_id": "kubernetes_default"}


class DeferOnce(BaseOperator):
    """The minimum for a deferred task in Airflow: its trigger fires at once."""

    def execute(self, context):
        from datetime import timedelta

        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="resume")

    def resume(self, context, event=None):
        return None


@dag(schedule=None, catchup=False)
def noop():
    @task
    def plain():
        return None

    @task.remote_step(backend="kubernetes", deferrable=True)
    def step_deferred():
        return None

    @task.remote_step(backend="kubernetes", deferrable=False)
    def step_in_worker():
        return None

    chain(
        plain(),
        DeferOnce(task_id="defer_once"),
        step_deferred(),
        step_in_worker(),
        KubernetesPodOperator(task_id="pod_deferred", name="pod-deferred", deferrable=True, **POD),
        KubernetesPodOperator(task_id="pod_in_worker", name="pod-in-worker", **POD),
    )


noop()
