"""Fixtures of the tests of bad input: jobs of this host, and a store."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.local.supervisor.systems import LINUX
from airflow_stepop.stores.configured import open_store
from tests.support.damage import mark  # noqa: F401 - a fixture
from tests.support.local_jobs import bench, running  # noqa: F401 - fixtures


@pytest.fixture
def system() -> str:
    """Use the code for Linux only: the stored files are the same on every system."""
    return LINUX


@pytest.fixture
def folder_store(tmp_path, monkeypatch):
    """The configured store, in a folder of the test."""
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", store.url)
    return store
