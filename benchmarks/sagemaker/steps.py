"""Measures a step from its submit until its value is loaded, beside a script that does it with boto3 alone.

The service takes no time here, so that what is left is our own share: staging, the runner, polls, and checks.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from airflow_stepop.hooks.sagemaker.hook import CREATES_PER_S, SageMakerStepHook
from airflow_stepop.payload.call import FunctionCall
from benchmarks.sagemaker.service import Room, count_of
from benchmarks.steps import run_step
from benchmarks.tables import Line, Table
from tests.emulators.sagemaker.container import unavailable

RUNS = count_of(9, 1)
POLL_S = 0.15  # of both; our hook sends at most 8 DescribeTrainingJob a second
SCRIPT = """
import json
data = json.load(open("/opt/ml/input/data/code/data.json"))
json.dump(data["lr"] * data["epochs"], open("/opt/ml/model/value.json", "w"))
"""
TITLE = "A step that does nothing, until its value is loaded"


def tables(room: Room) -> Iterator[Table]:
    """Yield the seconds and the CPU milliseconds of one step."""
    if reason := unavailable():
        yield Table(TITLE, "s", [Line("not measured", None, reason)])
        return
    hook = SageMakerStepHook()
    ways: dict[str, Callable[[], Any]] = {
        "boto3: upload, create, poll, download": lambda: _scripted(room),
        "airflow-stepop": lambda: _stepped(room, hook),
    }
    found = {name: _measured(run) for name, run in ways.items()}
    yield Table(TITLE, "s", [Line(name, seconds) for name, (seconds, _) in found.items()])
    yield Table(
        f"{TITLE}: CPU of the worker", "ms", [Line(name, cpu * 1e3) for name, (_, cpu) in found.items()]
    )


def _measured(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the median seconds and CPU seconds."""
    runs = []
    for _ in range(1 + RUNS):
        time.sleep(1 / CREATES_PER_S)  # the next create is allowed at once
        cpu, begin = time.process_time(), time.monotonic()
        if (value := run()) != 0.5:
            raise RuntimeError(f"the step has returned {value!r}")
        runs.append((time.monotonic() - begin, time.process_time() - cpu))
    seconds, cpus = zip(*runs[1:], strict=True)  # the first run loads the models of the services
    return median(seconds), median(cpus)


def _stepped(room: Room, hook: SageMakerStepHook) -> Any:
    def train(data: dict[str, float], epochs: int = 1) -> float:
        return data["lr"] * epochs

    call = FunctionCall(function=train, args=({"lr": 0.1},), kwargs={"epochs": 5}, reference=None)
    given = {"image": room.service.image, "settings": {"role": room.service.role}}
    return run_step(hook, call, room.address, POLL_S, **given)


def _scripted(room: Room) -> Any:
    """Run the same with a job of our own making."""
    name, bucket = f"bare-{uuid.uuid4().hex[:12]}", room.service.s3.bucket
    s3, client = room.service.client("s3"), room.service.client("sagemaker")
    for key, text in (("step.py", SCRIPT), ("data.json", json.dumps({"lr": 0.1, "epochs": 5}))):
        s3.put_object(Bucket=bucket, Key=f"bench/{name}/in/{key}", Body=text.encode())
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": f"s3://{bucket}/bench/{name}/in/",
        "S3DataDistributionType": "FullyReplicated",
    }
    client.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": room.service.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/step.py"],
        },
        RoleArn=room.service.role,
        InputDataConfig=[{"ChannelName": "code", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/bench/out", "CompressionType": "NONE"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 3600},
    )
    while client.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] != "Completed":
        time.sleep(POLL_S)
    found = s3.get_object(Bucket=bucket, Key=f"bench/out/{name}/output/model/value.json")
    return json.load(found["Body"])
