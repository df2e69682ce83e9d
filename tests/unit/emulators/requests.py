"""Requests to the emulator, written from the API's documentation."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from tests.support.sagemaker import Json, SageMaker


def refusal(client: Any, operation: str, **arguments: Any) -> tuple[str, str]:
    """Return code and message of the error that a call meets; ``("200", "")`` if it meets none."""
    try:
        getattr(client, operation)(**arguments)
    except client.exceptions.ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"]["Message"]
    return "200", ""


@dataclass
class Jobs:
    """Jobs of one test: their requests, their scripts and their objects."""

    service: SageMaker
    prefix: str

    @property
    def bucket(self) -> str:
        return self.service.s3.bucket

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def client(self) -> Any:
        return self.service.client("sagemaker")

    def put(self, name: str, data: str | bytes) -> None:
        body = data.encode() if isinstance(data, str) else data
        s3 = self.service.client("s3")
        s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=body)

    def objects(self, below: str = "") -> dict[str, bytes]:
        """Return the objects of this test by the name below its prefix."""
        s3, prefix = self.service.client("s3"), f"{self.prefix}/{below}"
        found = s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            entry["Key"].removeprefix(prefix): s3.get_object(Bucket=self.bucket, Key=entry["Key"])[
                "Body"
            ].read()
            for entry in found
        }

    def channel(self, name: str, below: str, kind: str = "S3Prefix") -> Json:
        source = {"S3DataType": kind, "S3Uri": f"{self.url}/{below}"}
        return {"ChannelName": name, "DataSource": {"S3DataSource": source}}

    def request(self, **changes: Any) -> Json:
        """Return the smallest request of a job, with some members replaced."""
        return {
            "TrainingJobName": f"job-{uuid.uuid4().hex[:12]}",
            "AlgorithmSpecification": {
                "TrainingImage": self.service.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python3", "-c", "pass"],
            },
            "RoleArn": self.service.role,
            "OutputDataConfig": {"S3OutputPath": f"{self.url}/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
            **changes,
        }

    def create(self, **changes: Any) -> str:
        """Create a job and return its name."""
        request = self.request(**changes)
        self.client.create_training_job(**request)
        return str(request["TrainingJobName"])

    def refused(self, **changes: Any) -> tuple[str, str]:
        """Return code and message of the error that a new job meets."""
        return refusal(self.client, "create_training_job", **self.request(**changes))

    def create_script(self, script: str, **changes: Any) -> str:
        """Create a job that runs a script from an input channel."""
        self.put("code/main.py", script)
        algorithm = {
            "TrainingImage": self.service.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3"],
            "ContainerArguments": ["-u", "/opt/ml/input/data/code/main.py"],
        }
        channels = [self.channel("code", "code/"), *changes.pop("InputDataConfig", [])]
        plain = {"S3OutputPath": f"{self.url}/out", "CompressionType": "NONE"}
        own = {"AlgorithmSpecification": algorithm, "InputDataConfig": channels, "OutputDataConfig": plain}
        return self.create(**{**own, **changes})
