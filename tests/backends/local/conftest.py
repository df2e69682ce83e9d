"""Real jobs of the local backend, in a folder of the test."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.local.supervisor.systems import LINUX, PORTABLE
from tests.support.local_jobs import bench, running  # noqa: F401 - fixtures


@pytest.fixture(params=[LINUX, PORTABLE])
def system(request: pytest.FixtureRequest) -> str:
    """The code for Linux, and the code for all other systems. Both run on Linux here."""
    return request.param
