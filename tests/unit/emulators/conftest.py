"""One emulator of each service for all tests of this folder. Each test begins with a new account."""

from __future__ import annotations

import uuid

import pytest

from tests.support.modal import Modal, modal_containers, modal_emulator, modal_server
from tests.support.sagemaker import SageMaker
from tests.support.sagemaker_fixtures import containers, emulator, service
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
