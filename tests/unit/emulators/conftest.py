"""One emulator of each service for all tests of this folder. Each test begins with a new account."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.support.gcs import Gcs, gcs_emulator
from tests.support.modal import Modal, modal_containers, modal_emulator, modal_server
from tests.support.sagemaker import SageMaker
from tests.support.sagemaker_fixtures import containers, emulator, service
from tests.unit.emulators.gcs_client import Client
from tests.unit.emulators.modal_workspace import Workspace
from tests.unit.emulators.requests import Jobs

__all__ = ["containers", "emulator", "modal_containers", "modal_emulator", "modal_server", "service"]


@pytest.fixture
def jobs(service: SageMaker) -> Jobs:
    """Makes requests below a prefix of its own in S3."""
    return Jobs(service, f"emulator/{uuid.uuid4().hex}")


@pytest.fixture
def running(jobs: Jobs, containers: None) -> Jobs:
    """The same, on a host where containers can run."""
    return jobs


@pytest.fixture
def workspace(modal_server: Modal) -> Workspace:
    """A workspace of Modal that no test has used."""
    return Workspace(modal_server, modal_server.client())


@pytest.fixture
def sandboxes(workspace: Workspace, modal_containers: None) -> Workspace:
    """The same, on a host where the commands of sandboxes can run."""
    return workspace


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    """An emulator of Cloud Storage that no other test has used."""
    with gcs_emulator() as emulator:
        yield emulator


@pytest.fixture
def storage(gcs: Gcs) -> Client:
    """A client of this emulator, with the account that may use its bucket."""
    return Client(gcs, gcs.account)
