"""What the benchmarks of this folder share: a namespace, simulated steps, and counters of requests.

Simulated steps run on nodes of kwok, if the cluster has these nodes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.manifests import default_image
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.testing import Step, make_step
from benchmarks.measure import is_installed

CONN_ID = "kubernetes_default"
IMAGE = default_image()
MANAGED = "app.kubernetes.io/managed-by=airflow-stepop"
IS_SHORT = bool(os.environ.get("STEPOP_BENCH_SHORT"))
FEW = 12  # limit of steps on one real node
PATIENCE_S = 600.0
RUN_S = 7200
THREADS = 8


@dataclass(frozen=True)
class Room:
    """The namespace of a benchmark, with nodes for pods that need not do anything.

    :param is_played: the cluster has nodes with the label and the taint ``fake=true``. Their pods are only
        simulated (https://kwok.sigs.k8s.io), in any number
    """

    namespace: str
    is_played: bool

    def settings(self, run_s: float = RUN_S) -> dict[str, Any]:
        """Return the settings of a step that seems to run for ``run_s`` seconds."""
        if not self.is_played:
            return {}
        tolerated = [{"key": "fake", "operator": "Exists", "effect": "NoSchedule"}]
        notes = {"fake/run-seconds": str(run_s)}
        return {"node_selector": {"fake": "true"}, "tolerations": tolerated, "annotations": notes}

    def count(self, wanted: int) -> int:
        return wanted if self.is_played else min(wanted, FEW)

    def step(self, run_s: float = RUN_S) -> Step:
        return make_step(["sleep", str(run_s)], settings=self.settings(run_s))


def why_not(module: str) -> str:
    """Return why a module of this package cannot run here; empty when it can."""
    if not os.environ.get("KUBECONFIG"):
        return "set KUBECONFIG to a cluster (kind create cluster; or k3s, minikube, ...)"
    if not is_installed("airflow.providers.cncf.kubernetes"):
        return "install airflow-stepop[kubernetes]"
    if IS_SHORT and module == "latency":
        return "left out of the short form: it takes minutes"
    return ""


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Create a namespace and the connection to it; remove both at the end."""
    import structlog

    from tests.support.cluster import namespace

    logging.disable(logging.WARNING)  # the operator logs a lot
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with namespace() as name:
        _allow_pod_operator(name)
        nodes = core().list_node(label_selector="fake=true").items
        yield Room(name, is_played=bool(nodes))


def _allow_pod_operator(namespace: str) -> None:
    """Give the account the permissions that KubernetesPodOperator needs and steps do not need."""
    from kubernetes import client

    from tests.support.cluster import NAME

    name = "pod-operator"
    every = ["get", "list", "watch", "create", "patch", "delete"]
    resources = ["pods", "pods/log", "pods/exec", "events"]
    rules = [{"apiGroups": [""], "resources": resources, "verbs": every}]
    rbac = client.RbacAuthorizationV1Api(_client())
    rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    rbac.create_namespaced_role_binding(namespace, binding)


@cache
def _client() -> Any:
    """Return a separate client, because the operator's hook changes the client's default configuration."""
    from kubernetes import config

    return config.new_client_from_config()


def core() -> Any:
    from kubernetes import client

    return client.CoreV1Api(_client())


def hook() -> KubernetesStepHook:
    return KubernetesStepHook(CONN_ID)


def started(steps: Sequence[Step]) -> list[JobHandle]:
    """Submit the steps, and return their handles when all of them run."""
    ours = hook()
    with ThreadPoolExecutor(THREADS) as pool:
        handles = list(pool.map(lambda step: ours.submit(step.spec, step.payload), steps))
    wait_for(
        lambda: all(status.state is JobState.RUNNING for status in ours.status(handles).values()),
        f"{len(handles)} running steps",
    )
    return handles


def pod_names(namespace: str) -> list[str]:
    """Return the names of the steps' pods."""
    found = core().list_namespaced_pod(namespace, label_selector=MANAGED, _preload_content=False)
    return [pod["metadata"]["name"] for pod in json.loads(found.data)["items"]]


def emptied(namespace: str) -> None:
    """Remove all jobs and pods of the namespace, and return when they are gone."""
    from kubernetes import client

    batch, pods = client.BatchV1Api(_client()), core()

    def is_asked() -> bool:
        try:
            batch.delete_collection_namespaced_job(namespace, body={"propagationPolicy": "Background"})
            pods.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
        except client.ApiException as error:
            if error.status != 504:  # thousands of objects take longer than the limit of a request
                raise
            return False
        return True

    wait_for(is_asked, "an end of jobs and pods")
    wait_for(lambda: not pods.list_namespaced_pod(namespace, limit=1).items, "an empty namespace")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait like the tests, but longer, since there are thousands of objects."""
    from tests.support.waiting import wait_until

    wait_until(condition, what, patience_s=PATIENCE_S, pause_s=0.5)


# -- counting requests


@dataclass
class Requests:
    """Counts the requests of the official clients in this process: of the blocking and the asyncio client."""

    states: int = 0
    logs: int = 0
    has_logs: bool = True

    def __sub__(self, before: Requests) -> Requests:
        return Requests(self.states - before.states, self.logs - before.logs)

    def now(self) -> Requests:
        return replace(self)

    def count(self, url: str) -> bool:
        """Count a request; return whether it is for a log."""
        is_for_log = urlsplit(url).path.endswith("/log")
        if is_for_log:
            self.logs += 1
        else:
            self.states += 1
        return is_for_log

    @classmethod
    def counted(cls, is_asyncio: bool = False, has_logs: bool = True) -> Requests:
        """Patch the clients so that they count until this process ends.

        :param is_asyncio: count in the asyncio client, too; its import takes as much memory as the other's
        :param has_logs: ``False``: a request for a log is replaced by a short request to the API server,
            because simulated pods have no logs
        """
        found = cls(has_logs=has_logs)
        for package in ("kubernetes", "kubernetes_asyncio")[: 2 if is_asyncio else 1]:
            client = import_module(f"{package}.client.rest").RESTClientObject
            client.request = found._counting(client.request)
        return found

    def _counting(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def counting(client: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
            if self.count(url) and not self.has_logs:
                url = f"{url.partition('/api')[0]}/version"
            return request(client, method, url, *args, **options)

        return counting


# -- lives of pods


@dataclass
class Life:
    """When a pod was created and when it ended, by the clock of this process."""

    labels: dict[str, str]
    made_at: float
    ended_at: float | None = None

    @property
    def seconds(self) -> float:
        return (self.ended_at or self.made_at) - self.made_at


@dataclass
class Lives:
    """The lives of a namespace's pods, read from a separate watch."""

    namespace: str
    pods: dict[str, Life] = field(default_factory=dict)

    @contextlib.contextmanager
    def seen(self) -> Iterator[Lives]:
        stream = core().list_namespaced_pod(self.namespace, watch=True, _preload_content=False)
        reader = threading.Thread(target=self._read, args=[stream], daemon=True)
        reader.start()
        try:
            yield self
        finally:
            stream.shutdown()

    def _read(self, stream: Any) -> None:
        with contextlib.suppress(Exception):  # seen() closes the stream, which raises here
            for line in stream:
                if line.strip():
                    self._take(json.loads(line)["object"], time.time())

    def _take(self, pod: dict[str, Any], now: float) -> None:
        metadata = pod["metadata"]
        life = self.pods.setdefault(metadata["name"], Life(metadata.get("labels") or {}, now))
        if life.ended_at is None and pod["status"].get("phase") in ("Succeeded", "Failed"):
            life.ended_at = now

    def of(self, begin: str) -> list[Life]:
        """Return the lives of the pods whose names begin with ``begin``, in the order of their creation."""
        found = [life for name, life in self.pods.items() if name.startswith(begin)]
        return sorted(found, key=lambda life: life.made_at)
