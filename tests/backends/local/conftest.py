"""Real jobs of the local backend, in a folder of the test."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.local.supervisor.systems import LINUX, PORTABLE
from tests.support.local_jobs import bench, running  # noqa: F401 - fixtures


@pytest.fixture(params=[LINUX, PORTABLE])
def system(request: pytest.FixtureRequest) -> str:
    """Run each test with the code for Linux and with the portable code. Both run on Linux here."""
    return request.param
