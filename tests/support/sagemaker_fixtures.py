"""Fixtures with an emulator of SageMaker. A ``conftest.py`` imports them for the tests of its folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support.needs import needs
from tests.support.s3 import S3Server
from tests.support.sagemaker import SageMaker, log_service, sagemaker


@pytest.fixture(scope="session")
def emulator(s3_server: S3Server) -> Iterator[SageMaker]:
    """One emulator for all tests of a folder."""
    with log_service() as logs_url, sagemaker(s3_server, logs_url) as service:
        yield service


@pytest.fixture
def service(emulator: SageMaker) -> Iterator[SageMaker]:
    """The emulator with an account that no test has used."""
    emulator.do("reset")
    yield emulator
    emulator.do("reset")


@pytest.fixture
def containers() -> None:
    """A host where containers can run."""
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
