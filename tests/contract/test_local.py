"""The backend ``local`` passes the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.supervisor.state import STATES
from airflow_stepop.hooks.local.supervisor.systems import PORTABLE
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import HookContract


class TestLocal(HookContract):
    """Real processes on this host."""

    patience_s = 200.0
    native_states = STATES
    unsupported: ClassVar = {
        "cpu_count": ResourceSettings(cpu_count=10_000),
        "memory": ResourceSettings(memory="1PB"),
        "gpu_count": ResourceSettings(gpu_count=1),
        "gpu_type": ResourceSettings(gpu_count=1, gpu_type="A100"),
        "nodes": ResourceSettings(nodes=2),
    }

    @pytest.fixture
    def make_hook(self, tmp_path: Path) -> Callable[[], LocalStepHook]:
        return lambda: LocalStepHook(folder=tmp_path / "jobs")

    @pytest.fixture(params=["folder", "bucket"])
    def checkpoint_uri(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[str]:
        is_bucket = request.param == "bucket"
        address = request.getfixturevalue("s3_server").new_address() if is_bucket else f"{tmp_path}/store"
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        store = open_store(address)
        yield store.uri("checkpoint")
        store.delete_folder("")


class TestLocalPortable(TestLocal):
    """The same with the code for operating systems other than Linux."""

    @pytest.fixture
    def make_hook(self, tmp_path: Path) -> Callable[[], LocalStepHook]:
        return lambda: LocalStepHook(folder=tmp_path / "jobs", system=PORTABLE)
