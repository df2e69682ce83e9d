"""The kubernetes backend passes the contract, on a real cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import HookContract
from tests.support.s3 import S3Server


class TestKubernetes(HookContract):
    """Real pods."""

    shares_files = False
    patience_s = 120.0
    poll_s = 0.1
    unsupported: ClassVar = {"nodes": ResourceSettings(nodes=2)}
    # Nothing inside a container can kill its process 1, but it can take away that it writes
    crash = ("python3", "-c", "import resource; resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))")

    @pytest.fixture
    def make_hook(self, kubernetes_namespace: str) -> Callable[[], KubernetesStepHook]:
        return KubernetesStepHook

    @pytest.fixture
    def store(self, s3_for_pods: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        address = s3_for_pods.new_address()
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        store = open_store(address)
        yield store
        store.delete_folder("")
