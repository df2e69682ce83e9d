"""The documentation's example for SageMaker, in real Airflow, against the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support.needs import needs
from tests.support.paths import EXAMPLES
from tests.support.s3 import S3Server
from tests.support.sagemaker import SageMaker, log_service, sagemaker

# Account and repositories of AWS's images: airflow_stepop/hooks/sagemaker/images.json
REPOSITORY = "763104351884.dkr.ecr.us-east-1.amazonaws.com/{}"


@pytest.fixture(scope="module")
def service(s3_server: S3Server) -> Iterator[SageMaker]:
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
    with log_service() as logs_url, sagemaker(s3_server, logs_url) as found:
        for name in ("pytorch", "pytorch-training"):
            found.do("repository", name=REPOSITORY.format(name), tags=["*"])
        yield found


@pytest.fixture(scope="module")
def run(service: SageMaker, s3_server: S3Server, start_airflow: Callable[..., Any]) -> Any:
    address = s3_server.new_address().partition("@")[2]
    airflow = start_airflow(
        AIRFLOW_CONN_AWS_DEFAULT=service.connection(stepop={"settings": {"role": service.role}}),
        AIRFLOW__STEPOP__STORE=f"s3://aws_default@{address}",
    )
    place = airflow.place("sagemaker", f"s3://aws_default@{address}")
    return airflow.run(EXAMPLES / "train_on_sagemaker.py", place=place)


def test_values_go_out_and_come_back(run: Any) -> None:
    for task in ("preprocess", "train", "report"):
        run.assert_state(task)
    assert run.value("report").startswith("y = 3.0")
    assert run.value("report").endswith("after 200 epochs")


def test_the_task_log_has_the_machine_the_image_and_the_line_of_the_step(run: Any) -> None:
    log = run.log("train")
    assert "SageMaker: chose " in log
    assert "SageMaker: image 'pytorch' is 763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch" in log
    assert log.count("loss 0") + log.count("loss 1") == 1


def test_the_job_is_a_spot_job_with_checkpoints(run: Any, service: SageMaker) -> None:
    (name,) = service.report()["jobs"]
    job = service.client("sagemaker").describe_training_job(TrainingJobName=name)
    assert job["EnableManagedSpotTraining"] is True
    assert job["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600 + 86400}
