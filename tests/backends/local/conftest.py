"""Real jobs of the local backend, each in a folder of the test's own."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.local.supervisor.systems import LINUX, PORTABLE
from tests.support.local_jobs import bench, running  # noqa: F401 - fixtures


@pytest.fixture(params=[LINUX, PORTABLE])
def system(request: pytest.FixtureRequest) -> str:
    """Both ways to deal with the operating system: that of Linux, and that of every other, run on Linux."""
    return request.param
