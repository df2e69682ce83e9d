"""Nothing that a test has left open is told of while another one runs.

Python warns of a child process that nobody waited for, and of a socket, a file or an event loop that nobody
closed, when it collects them: that may be minutes later, and then an innocent test fails.

A collection takes a sixth of a second with all of Airflow in memory. Behind each test only what came into
being since the last one is looked at, which takes a millisecond; all is looked at behind each module.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Collect the garbage of the test, so that its warnings fail this test and no other."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_leftovers_of_fixtures() -> Iterator[None]:
    """Collect what became garbage later: the fixtures of the module among others."""
    yield
    gc.unfreeze()
    gc.collect()
