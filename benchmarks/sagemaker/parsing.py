"""Measures the CPU time of a DAG file with one task on SageMaker, on top of what every DAG file loads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import AIRFLOW, OPERATORS
from benchmarks.measure import code_cost
from benchmarks.sagemaker.service import Room
from benchmarks.tables import Line, Table

ROLE, IMAGE = "arn:aws:iam::123456789012:role/r", "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
# The checks of our options are in it: a wrong option is an error when the file is parsed
STEP = f"""
from airflow_stepop import ResourceSettings
@dag(schedule=None)
def training():
    @task.remote_step(
        backend="sagemaker",
        image="{IMAGE}",
        resource_settings=ResourceSettings(cpu_count=8, memory="32GB", gpu_count=1),
        settings={{"role": "{ROLE}", "use_spot_instances": True}},
    )
    def train(data):
        return data
    train(1)
training()
"""
OPERATOR = f"""
{OPERATORS["SageMakerTrainingOperator"]}
@dag(schedule=None)
def training():
    SageMakerTrainingOperator(
        task_id="train",
        deferrable=True,
        config={{
            "TrainingJobName": "train",
            "AlgorithmSpecification": {{"TrainingImage": "{IMAGE}", "TrainingInputMode": "File"}},
            "RoleArn": "{ROLE}",
            "OutputDataConfig": {{"S3OutputPath": "s3://bucket/out"}},
            "ResourceConfig": {{"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}},
            "StoppingCondition": {{"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}},
            "EnableManagedSpotTraining": True,
        }},
    )
training()
"""
PLAIN = """
@dag(schedule=None)
def training():
    @task
    def train(data):
        return data
    train(1)
training()
"""


def tables(room: Room) -> Iterator[Table]:
    """Yield the CPU milliseconds that the DAG file costs."""
    lines = []
    for name, code in (
        ("a plain @task", PLAIN),
        ("SageMakerTrainingOperator", OPERATOR),
        ("airflow-stepop, @task.remote_step", STEP),
    ):
        cost = code_cost(code, AIRFLOW)
        lines.append(Line(name, cost.cpu_s * 1000, f"{cost.modules} modules"))
    yield Table("A DAG file with one task, on top of airflow.sdk", "ms CPU", lines)
