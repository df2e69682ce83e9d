"""Steps that run as training jobs of SageMaker or in sandboxes of Modal; see ``crash_steps.py``."""

from __future__ import annotations

import os

from airflow.sdk import DAG
from crash_cloud_points import LONG, SANDBOX_LONG, SANDBOX_SHORT, SHORT
from crash_steps import CrashStep

STORE = os.environ.get("STEPOP_TEST_STORE", "")
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"


def dags_of(prefix, short, long, services, **options):
    """Yield the DAGs of one backend.

    :param short: the points at which workers are killed; ``long``: further ones
    :param services: task id -> whether the task is deferred, of the steps whose services are killed
    """
    for dag_id, points in {prefix: short, f"{prefix}_long": long}.items():
        with DAG(dag_id, schedule=None) as dag:
            for point in points:
                where, _, way = point.partition("_")
                CrashStep(task_id=point, die_at=where, deferrable=way == "deferred", **options)
        yield dag
    with DAG(f"{prefix}_services", schedule=None) as dag:
        for task_id, is_deferred in services.items():
            CrashStep(task_id=task_id, deferrable=is_deferred, **options)
    yield dag


def add(dags):
    globals().update({dag.dag_id: dag for dag in dags})


if STORE and "AIRFLOW_CONN_AWS_DEFAULT" in os.environ:
    services = {"triggerer": True, "scheduler": False}
    options = {"backend": "sagemaker", "image": IMAGE, "store": STORE}
    add(dags_of("crash_training", SHORT, LONG, services, **options))

if "AIRFLOW_CONN_MODAL_DEFAULT" in os.environ:
    services = {"triggerer": True, "both": True}
    add(dags_of("crash_sandbox", SANDBOX_SHORT, SANDBOX_LONG, services, backend="modal"))

    for task_id, dag_id in {
        "scheduler": "crash_sandbox_workers",
        "creating": "crash_sandbox_creating",
    }.items():
        with DAG(dag_id, schedule=None):
            CrashStep(task_id=task_id, backend="modal")
