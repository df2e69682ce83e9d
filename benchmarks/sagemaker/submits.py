"""One submit, by each way. ``submitting.py`` runs each in a fresh process, as a worker does.

Nothing is imported before it is needed, since the imports are a part of the cost.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

CONN_ID = "aws_default"
IMAGE, ROLE, BUCKET, URL = (f"STEPOP_BENCH_{name}" for name in ("IMAGE", "ROLE", "BUCKET", "URL"))


def config(name: str) -> dict[str, Any]:
    """Return a request that runs ``true``, on the machine that our steps get."""
    return {
        "TrainingJobName": f"{name}-{uuid.uuid4().hex[:12]}",
        "AlgorithmSpecification": {
            "TrainingImage": os.environ[IMAGE],
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["true"],
        },
        "RoleArn": os.environ[ROLE],
        "OutputDataConfig": {"S3OutputPath": f"s3://{os.environ[BUCKET]}/bench/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def bare() -> None:
    """Create a job with boto3 alone."""
    import boto3

    client = boto3.client(
        "sagemaker",
        endpoint_url=os.environ[URL],
        region_name="us-east-1",
        aws_access_key_id="tests",
        aws_secret_access_key="secret",
    )
    client.create_training_job(**config("bare"))


def operator() -> None:
    """Do what a worker does until the task of the operator is deferred.

    :raises RuntimeError: the task was not deferred
    """
    from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator
    from airflow.sdk.exceptions import TaskDeferred

    task = SageMakerTrainingOperator(
        task_id="train", config=config("operator"), aws_conn_id=CONN_ID, deferrable=True
    )
    try:
        task.execute({})
    except TaskDeferred:
        return
    raise RuntimeError("the operator's task was not deferred")


def ours() -> None:
    """Pickle a function with its arguments, stage them in the bucket, and create the job."""
    from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
    from airflow_stepop.payload.call import FunctionCall
    from airflow_stepop.payload.standalone import make_step
    from airflow_stepop.stores.configured import open_store

    def train(data: dict[str, float], epochs: int = 1) -> float:
        return data["lr"] * epochs

    call = FunctionCall(function=train, args=({"lr": 0.1},), kwargs={"epochs": 3}, reference=None)
    store = open_store(os.environ["AIRFLOW__STEPOP__STORE"])
    step = make_step(
        call,
        image=os.environ[IMAGE],
        settings={"role": os.environ[ROLE]},
        result_uri=store.uri(f"results/{uuid.uuid4().hex}"),
    )
    SageMakerStepHook(CONN_ID).submit(step.spec, step.payload)
