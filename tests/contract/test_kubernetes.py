"""The backend ``kubernetes`` passes the contract, on a real cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest
from urllib3.exceptions import HTTPError

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.cluster import ClusterError
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME
from airflow_stepop.job import JobHandle
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import HookContract
from tests.support.cluster_jobs import wait_no_pods
from tests.support.s3 import S3Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api


def answer(status: int) -> ClusterError:
    from kubernetes.client.exceptions import ApiException

    return ClusterError("https://cluster", ApiException(status=status))


@contextmanager
def no_room(admin: CoreV1Api, namespace: str) -> Iterator[None]:
    """Set a quota of no Jobs for the namespace, and wait until the quota is in force."""
    quota = {"metadata": {"name": "contract"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    admin.create_namespaced_resource_quota(namespace, quota)
    try:
        wait_until(
            lambda: admin.read_namespaced_resource_quota("contract", namespace).status.hard,
            "the quota to be counted",
        )
        yield
    finally:
        admin.delete_namespaced_resource_quota("contract", namespace)


class TestKubernetes(HookContract):
    """Real pods."""

    shares_files = False
    patience_s = 120.0
    poll_s = 0.1
    unsupported: ClassVar = {"nodes": ResourceSettings(nodes=2)}
    # No process of a container can kill its process 1. It can forbid process 1 to write files
    crash = ("python3", "-c", "import resource; resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))")

    transient_errors: ClassVar = (
        ConnectionResetError("cut"),
        HTTPError("no answer"),
        *(answer(status) for status in (408, 429, 500, 503)),
    )

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

    @property
    def admin(self) -> CoreV1Api:
        """A client with all permissions on the cluster. Airflow has fewer."""
        from kubernetes import client, config

        return client.CoreV1Api(config.new_client_from_config())

    @pytest.fixture
    def full_quota(self, hook: StepHook) -> AbstractContextManager[None]:
        return no_room(self.admin, hook.scope().rpartition("/")[2])

    def free_name(self, hook: StepHook, handle: JobHandle) -> None:
        """Wait until the Secret and the pods are gone: a kubelet keeps an immutable Secret for its pods."""
        assert isinstance(hook, KubernetesStepHook)
        hook.delete(handle)
        wait_no_pods(hook, handle)
        wait_until(
            lambda: hook.cluster().get("secrets", handle.id),
            f"the Secret of {handle.id} to be gone",
            holds=lambda found: found is None,
        )

    def lose_machine(self, hook: StepHook, handle: JobHandle) -> None:
        namespace, selector = handle.detail["namespace"], f"{JOB_NAME}={handle.id}"
        self.admin.delete_collection_namespaced_pod(
            namespace, label_selector=selector, grace_period_seconds=0
        )
