"""Steps that run as SageMaker training jobs; see ``crash_steps.py``."""

from __future__ import annotations

import os

from airflow.sdk import DAG
from crash_steps import CrashStep
from crash_training_points import LONG, SHORT

STORE = os.environ.get("STEPOP_TEST_STORE", "")


class TrainingStep(CrashStep):
    """A step on SageMaker."""

    def __init__(self, **kwargs):
        image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
        super().__init__(backend="sagemaker", image=image, store=STORE, **kwargs)


if STORE and "AIRFLOW_CONN_AWS_DEFAULT" in os.environ:
    for dag_id, points in {"crash_training": SHORT, "crash_training_long": LONG}.items():
        with DAG(dag_id, schedule=None):
            for point in points:
                where, _, way = point.partition("_")
                TrainingStep(task_id=point, die_at=where, deferrable=way == "deferred")

    with DAG("crash_training_services", schedule=None):
        TrainingStep(task_id="triggerer", deferrable=True)
        TrainingStep(task_id="scheduler")
