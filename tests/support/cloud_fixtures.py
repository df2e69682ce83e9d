"""Fixtures for a real Airflow whose steps run in emulators of clouds. A ``conftest.py`` imports them.

An emulator that this machine cannot run is ``None`` for the Airflow, and a skip for the tests that need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support.modal import Modal, modal
from tests.support.needs import needs
from tests.support.sagemaker import SageMaker, log_service, sagemaker


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the deployment. Jobs see it."""
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="session")
def sagemaker_or_none(home: Path, request: pytest.FixtureRequest) -> Iterator[SageMaker | None]:
    """The emulator of SageMaker; ``None`` where this machine has no S3 server or no namespaces."""
    if not os.environ.get("STEPOP_S3SERVER") or unavailable():
        yield None
        return
    server = request.getfixturevalue("s3_server")
    with log_service() as logs_url, sagemaker(server, logs_url, shared=[str(home)]) as found:
        yield found


@pytest.fixture(scope="session")
def training_service(request: pytest.FixtureRequest, sagemaker_or_none: SageMaker | None) -> SageMaker:
    """The emulator of SageMaker, or a skip with what is absent."""
    request.getfixturevalue("s3_server")
    return needs(sagemaker_or_none, f"namespaces for containers: {unavailable()}")


@pytest.fixture(scope="session")
def modal_or_none(home: Path) -> Iterator[Modal | None]:
    """The emulator of Modal; ``None`` where this machine has no namespaces."""
    if unavailable():
        yield None
        return
    with modal(shared=[str(home)]) as found:
        yield found


@pytest.fixture(scope="session")
def modal_service(modal_or_none: Modal | None) -> Modal:
    """The emulator of Modal, or a skip with what is absent."""
    return needs(modal_or_none, f"namespaces for sandboxes: {unavailable()}")


@pytest.fixture(scope="session")
def cloud_env(sagemaker_or_none: SageMaker | None, modal_or_none: Modal | None) -> dict[str, str]:
    """Variables of the deployment: the default connection of each emulator."""
    env = {}
    if sagemaker_or_none is not None:
        settings = {"role": sagemaker_or_none.role}
        env["AIRFLOW_CONN_AWS_DEFAULT"] = sagemaker_or_none.connection(stepop={"settings": settings})
    if modal_or_none is not None:
        env |= {"AIRFLOW_CONN_MODAL_DEFAULT": modal_or_none.connection(), **modal_or_none.environment}
    return env
