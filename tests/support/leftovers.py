"""Nothing that a test has left open is told of while another one runs.

Python warns of a child process that nobody waited for, and of a socket, a file or an event loop that nobody
closed, when it collects them: that may be minutes later, and then an innocent test fails.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Collect garbage behind the last test of each module: the warnings of a module fail that module.

    It takes a tenth of a second with all of Airflow in memory, which is too much for every test.
    """
    yield
    gc.collect()
