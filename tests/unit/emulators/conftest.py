"""One emulator for all tests of this folder. Each test begins with a new account."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support.needs import needs
from tests.support.s3 import S3Server
from tests.support.sagemaker import SageMaker, log_service, sagemaker
from tests.unit.emulators.requests import Jobs


@pytest.fixture(scope="session")
def emulator(s3_server: S3Server) -> Iterator[SageMaker]:
    with log_service() as logs_url, sagemaker(s3_server, logs_url) as service:
        yield service


@pytest.fixture
def service(emulator: SageMaker) -> Iterator[SageMaker]:
    """The emulator with an account that no test has used."""
    emulator.do("reset")
    yield emulator
    emulator.do("reset")


@pytest.fixture
def jobs(service: SageMaker) -> Jobs:
    """Makes requests below a prefix of its own in S3."""
    return Jobs(service, f"emulator/{uuid.uuid4().hex}")


@pytest.fixture
def running(jobs: Jobs) -> Jobs:
    """The same, on a host where containers can run."""
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
    return jobs
