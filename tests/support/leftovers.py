"""A pytest plugin: a test that leaves something open fails itself. Otherwise a later test would fail.

Python warns of a child process that nobody waited for, and of a socket, file or event loop that nobody
closed. The warning comes when the garbage collector finds the object. That may be minutes later, in another
test.

With all of Airflow in memory, a full collection takes a sixth of a second. After each test the collector
looks only at objects that are newer than the last collection, which takes a millisecond. After each module
it looks at all objects.

A process that imports Airflow without ``AIRFLOW_HOME`` creates ``~/airflow``. The module whose tests start
such a process fails, too. On a host that has this folder already, nothing can be said.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Collect the garbage of the test, so that warnings about it fail this test."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_leftovers_of_fixtures() -> Iterator[None]:
    """Collect objects that became garbage later, such as the fixtures of the module."""
    yield
    gc.unfreeze()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def no_airflow_in_the_user_s_home() -> Iterator[None]:
    """Fail the module if Airflow's default home appears while its tests run."""
    home = Path("~/airflow").expanduser()
    was_there = home.exists()
    yield
    if not was_there and home.exists():
        pytest.fail(f"{home} was created: a test starts a process that imports Airflow without AIRFLOW_HOME")
