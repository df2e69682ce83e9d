"""One emulator for all tests of this folder. Each test begins with a new account."""

from __future__ import annotations

import uuid

import pytest

from tests.support.sagemaker import SageMaker
from tests.support.sagemaker_fixtures import containers, emulator, service
from tests.unit.emulators.requests import Jobs

__all__ = ["containers", "emulator", "service"]


@pytest.fixture
def jobs(service: SageMaker) -> Jobs:
    """Makes requests below a prefix of its own in S3."""
    return Jobs(service, f"emulator/{uuid.uuid4().hex}")


@pytest.fixture
def running(jobs: Jobs, containers: None) -> Jobs:
    """The same, on a host where containers can run."""
    return jobs
