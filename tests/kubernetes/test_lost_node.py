"""A node that is not heard of any more: its pods may go on, so that no other one is begun beside them."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

import pytest

from airflow_stepop.job import Category, JobState
from airflow_stepop.kubernetes.manifests import JOB_NAME, STEP
from airflow_stepop.kubernetes.verdict import newest
from tests.kubernetes.test_cluster import wait

pytestmark = pytest.mark.timeout(300)
KEY = "stepop.test/lost"
TOLERATED_S = 3  # 300 unless a pod says otherwise


def now():
    return datetime.now(UTC).isoformat()


@pytest.fixture
def core(kubernetes_namespace):
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config())


@pytest.fixture
def node(core):
    """A node without a kubelet: the test says what one would say."""
    name = f"lost-{uuid.uuid4().hex[:8]}"
    core.create_node(
        {
            "metadata": {"name": name, "labels": {KEY: name}},
            "spec": {"taints": [{"key": KEY, "effect": "NoSchedule"}]},
        }
    )
    room = {"cpu": "4", "memory": "8Gi", "pods": "10"}
    ready = {"type": "Ready", "status": "True", "reason": "ByTest", "message": "", "lastHeartbeatTime": now()}
    core.patch_node_status(
        name,
        {
            "status": {
                "capacity": room,
                "allocatable": room,
                "conditions": [{**ready, "lastTransitionTime": now()}],
            }
        },
    )
    yield name
    if name in [one.metadata.name for one in core.list_node().items]:
        core.delete_node(name)


def named(pod):
    return pod["metadata"]["name"], pod["metadata"]["namespace"]


def begin(core, pod):
    """Say that the step's container runs, and nothing more: the node controller notices that."""
    image = pod["spec"]["containers"][0]["image"]
    container = {"name": STEP, "image": image, "imageID": image, "restartCount": 0, "ready": True}
    container |= {"started": True, "state": {"running": {"startedAt": now()}}}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Ready", "ContainersReady")
    ]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    core.patch_namespaced_pod_status(
        pod["metadata"]["name"], pod["metadata"]["namespace"], {"status": status}
    )


@pytest.fixture
def running(hook, submitted, core, node):
    """A step on that node."""
    lost = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": TOLERATED_S}
        for what in ("unreachable", "not-ready")
    ]
    settings = {
        "node_selector": {KEY: node},
        "tolerations": [{"key": KEY, "operator": "Exists", "effect": "NoSchedule"}, *lost],
        "termination_grace_period_seconds": 0,
    }
    _, handle = submitted(["sleep", "600"], settings=settings)
    wait(hook, handle, lambda _: (pod_of(hook, handle) or {}).get("spec", {}).get("nodeName"))
    begin(core, pod_of(hook, handle))
    wait(hook, handle, lambda status: status.state is JobState.RUNNING)
    yield handle
    pod = pod_of(hook, handle)
    if pod is not None:
        core.delete_namespaced_pod(
            pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_seconds=0
        )


def pod_of(hook, handle):
    return newest(list(hook.cluster().list("pods", labelSelector=f"{JOB_NAME}={handle.id}")))


def test_a_step_is_given_up_once_its_node_is_removed(hook, core, node, running):
    status = wait(hook, running, lambda status: "its node does not answer" in status.native)
    assert status.state is JobState.RUNNING
    status = wait(hook, running, lambda status: "is to be removed" in status.native)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        status = hook.status([running])[running]
        assert status.state is JobState.RUNNING, "nobody knows that it has ended"
        time.sleep(0.5)
    assert "once the node is back or is deleted" in status.native
    core.delete_node(node)  # as the controller of a cloud does when the machine is gone
    status = wait(hook, running)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.PREEMPTED
