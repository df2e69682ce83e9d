"""The backend ``sagemaker`` passes the contract, against an emulator that runs the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pytest

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobHandle
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import HookContract
from tests.emulators.sagemaker.container import unavailable
from tests.support.needs import needs
from tests.support.s3 import S3Server
from tests.support.sagemaker import SageMaker, log_service, sagemaker

CONNECTION = "AIRFLOW_CONN_AWS_DEFAULT"


def answer(code: str, status: int = 400) -> Exception:
    from botocore.exceptions import ClientError

    error = {"Error": {"Code": code, "Message": "again"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(error, "DescribeTrainingJob")


def no_answer(name: str) -> Exception:
    from botocore import exceptions

    found: Exception = getattr(exceptions, name)(endpoint_url="https://sagemaker", error="cut")
    return found


@pytest.fixture(scope="module")
def emulator(s3_server: S3Server) -> Iterator[SageMaker]:
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
    with log_service() as logs_url, sagemaker(s3_server, logs_url) as service:
        yield service


class TestSageMaker(HookContract):
    """Real processes in namespaces of their own, real boto3, a real S3 server."""

    shares_files = False
    patience_s = 120.0
    poll_s = 0.2
    other_place: ClassVar = {"region_name": "eu-west-1"}
    unsupported: ClassVar = {
        "nodes": ResourceSettings(nodes=2),
        "shm": ResourceSettings(shm="1GB"),
    }
    # No process of a container can kill its process 1. It can forbid the runner's processes to write files
    crash = (
        "python3",
        "-c",
        "import os, resource\n"
        "for pid in (os.getppid(), 1): resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))",
    )
    transient_errors: ClassVar = (
        ConnectionResetError("cut"),
        no_answer("EndpointConnectionError"),
        no_answer("ReadTimeoutError"),
        no_answer("ConnectionClosedError"),
        *(answer(code) for code in ("ThrottlingException", "RequestLimitExceeded")),
        *(answer(code, 500) for code in ("InternalFailure", "ServiceUnavailable", "NeverHeardOf")),
    )

    @property
    def native_states(self) -> set[str]:  # type: ignore[override]
        import botocore.session

        model = botocore.session.get_session().get_service_model("sagemaker")
        return {*model.shape_for("TrainingJobStatus").enum} - {"Deleting"} | {
            *model.shape_for("SecondaryStatus").enum
        }

    @pytest.fixture
    def service(self, emulator: SageMaker) -> SageMaker:
        return emulator

    @pytest.fixture
    def make_hook(
        self, service: SageMaker, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], SageMakerStepHook]:
        stepop = {"settings": {"role": service.role}}
        monkeypatch.setenv(CONNECTION, service.connection(stepop=stepop))
        return SageMakerStepHook

    def free_name(self, hook: StepHook, handle: JobHandle) -> None:
        assert isinstance(hook, SageMakerStepHook)
        hook._of(handle).clients.client("sagemaker").delete_training_job(TrainingJobName=handle.name)

    @pytest.fixture
    def store(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        address = s3_server.new_address()
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        store = open_store(address)
        yield store
        store.delete_folder("")

    spec_options: ClassVar = {
        "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1",
        "settings": {"role": "arn:aws:iam::123456789012:role/stepop-job"},
    }

    @pytest.fixture
    def full_quota(self, service: SageMaker) -> AbstractContextManager[None]:
        return no_room(service)


@contextmanager
def no_room(service: SageMaker) -> Iterator[None]:
    service.do("settings", quotas={"ml.m5.large": 0})
    try:
        yield
    finally:
        service.do("settings", quotas={})
