"""A node does not answer any more. Its pods may still run, so no other pod may start beside them."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import suppress

import pytest

from airflow_stepop.cli import jobs
from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.manifests import CANCELLED
from airflow_stepop.hooks.kubernetes.objects import STEP
from airflow_stepop.hooks.kubernetes.pods import newest
from airflow_stepop.hooks.kubernetes.status import status_of
from airflow_stepop.inventory.targets import Job, Target
from airflow_stepop.job import FoundJob, JobState
from tests.support.cluster import now, say_ready
from tests.support.cluster_jobs import pods_of, wait_over, wait_running, wait_status
from tests.support.waiting import wait_until

KEY = "stepop.test/lost"
TOLERATED_S = 3  # 300 unless a pod sets it


@pytest.fixture
def core(kubernetes_namespace):
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config())


@pytest.fixture
def node(core):
    """A node without a kubelet; the test reports its state instead."""
    name = f"lost-{uuid.uuid4().hex[:8]}"
    core.create_node(
        {
            "metadata": {"name": name, "labels": {KEY: name}},
            "spec": {"taints": [{"key": KEY, "effect": "NoSchedule"}]},
        }
    )
    room = {"cpu": "4", "memory": "8Gi", "pods": "10"}
    say_ready(core, name, capacity=room, allocatable=room)
    yield name
    if name in [one.metadata.name for one in core.list_node().items]:
        core.delete_node(name)


def named(pod):
    return pod["metadata"]["name"], pod["metadata"]["namespace"]


def begin(core, pod):
    """Report that the step's container runs.

    Ready conditions are included, as the node controller resets them.
    """
    image = pod["spec"]["containers"][0]["image"]
    container = {"name": STEP, "image": image, "imageID": image, "restartCount": 0, "ready": True}
    container |= {"started": True, "state": {"running": {"startedAt": now()}}}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Ready", "ContainersReady")
    ]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    say_ready(core, pod["spec"]["nodeName"])  # the node controller may already have found it not ready
    core.patch_namespaced_pod_status(*named(pod), {"status": status})


def finish(core, pod):
    """Report what a returned kubelet reports of a pod marked for deletion: killed, then gone."""
    times = {"startedAt": now(), "finishedAt": now()}
    container = {"name": STEP, "image": "", "imageID": "", "restartCount": 0, "ready": False}
    container |= {"state": {"terminated": {"exitCode": 137, "reason": "Error", **times}}}
    core.patch_namespaced_pod_status(
        *named(pod), {"status": {"phase": "Failed", "containerStatuses": [container]}}
    )
    core.delete_namespaced_pod(*named(pod), grace_period_seconds=0)


@pytest.fixture
def steps(hook, submitted, core, node):
    """Return a function that submits steps to this node. Their pods wait there for a kubelet."""
    lost = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": TOLERATED_S}
        for what in ("unreachable", "not-ready")
    ]
    settings = {
        "node_selector": {KEY: node},
        "tolerations": [{"key": KEY, "operator": "Exists", "effect": "NoSchedule"}, *lost],
        "termination_grace_period_seconds": 1,  # with 0, a pod is removed even if it still runs
    }
    handles = []

    def make(count):
        handles.extend(submitted(["sleep", "600"], settings=settings)[1] for _ in range(count))
        for handle in handles:
            say_ready(core, node)
            wait_until(
                lambda one=handle: (pod_of(hook, one) or {}).get("spec", {}).get("nodeName"),
                f"the pod of {handle.id} to have a node",
                explain=lambda one=handle: hook.status([one])[one],
                pause_s=0.2,
            )
        return handles

    yield make
    from kubernetes.client.exceptions import ApiException

    for handle in handles:
        pod = pod_of(hook, handle)
        if pod is not None:
            with suppress(ApiException):  # the cluster may remove the pod at the same moment
                core.delete_namespaced_pod(*named(pod), grace_period_seconds=0)


def pod_of(hook, handle):
    return newest(pods_of(hook, handle))


def is_marked(hook, handle):
    """Return whether the pod is marked for deletion; the node controller marks it after its toleration."""
    return "deletionTimestamp" in pod_of(hook, handle)["metadata"]


def wait_native(hook, handle, words):
    return wait_status(hook, handle, f"{words!r} is said", lambda status: words in status.description)


def shown(hook, handle):
    """Return the job's line of ``airflow stepop jobs``."""
    found = FoundJob(handle, {}, time.time())
    job = Job(Target(handle.backend, handle.conn_id), found, hook.status([handle])[handle])
    return jobs._short(jobs.describe_job(job, time.time(), []))


def test_nothing_is_over_before_the_node_is_removed(hook, core, node, steps):
    """A cloud's controller removes the node once its machine is gone. Before that, a pod may still run."""
    goes_on, cancelled, deleted, waits = steps(4)
    runs = [goes_on, cancelled, deleted]
    for handle in runs:
        begin(core, pod_of(hook, handle))
        wait_running(hook, handle)
    status = wait_native(hook, goes_on, "its node has not answered since 20")
    assert status.state is JobState.RUNNING
    wait_native(hook, goes_on, "will be removed")
    tainted = "Terminating: its node was lost or tainted"
    wait_status(hook, waits, f"{tainted!r} is said", lambda status: status.description == tainted)
    hook.cancel(cancelled)
    hook.delete(deleted)
    names = {handle: pod_of(hook, handle)["metadata"]["name"] for handle in (*runs, waits)}
    end = time.monotonic() + 10  # nothing may change in this time; a slow machine only weakens the test
    while time.monotonic() < end:
        for handle in (*runs, waits):
            status = hook.status([handle])[handle]
            expected = JobState.PENDING if handle == waits else JobState.RUNNING
            assert status.state is expected, f"nobody knows that it has ended: {status}"
            assert [one["metadata"]["name"] for one in pods_of(hook, handle)] == [names[handle]]
        time.sleep(0.5)
    assert "when the node is back or is deleted" in hook.status([goes_on])[goes_on].description
    assert hook.status([deleted])[deleted].description.startswith("JobDeleted: ")
    assert shown(hook, goes_on)["state"] == "running (NodeNotReady)"
    core.delete_node(node)
    for handle in (goes_on, waits):
        status = wait_over(hook, handle)
        assert status.state is JobState.FAILED
        assert status.failure.category is Category.PREEMPTED
        assert re.search("node was (not )?lost or", f"{status.failure.summary} {status.failure.hint}")
    assert wait_over(hook, cancelled).state is JobState.CANCELLED
    assert wait_over(hook, deleted).state is JobState.GONE


def test_a_node_that_comes_back_ends_what_was_to_be_removed(hook, core, node, steps):
    (handle,) = steps(1)
    pod = pod_of(hook, handle)
    begin(core, pod)
    wait_native(hook, handle, "will be removed")
    assert is_marked(hook, handle)
    say_ready(core, node)
    finish(core, pod)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.PREEMPTED
    assert re.search("node was (not )?lost or", f"{status.failure.summary} {status.failure.hint}")


def test_many_jobs_are_watched_the_same_way(hook, core, node, steps):
    """The fields that the streams keep of a pod suffice to tell that its node is lost."""
    handles = steps(4)
    for handle in handles:
        begin(core, pod_of(hook, handle))

    def states():
        found = hook.status(handles)
        return {found[handle].state for handle in handles}, {found[handle].native[:12] for handle in handles}

    gone = ({JobState.RUNNING}, {"NodeNotReady"})
    wait_until(states, "the node to be seen as not ready", holds=lambda seen: seen == gone, pause_s=0.3)
    hook.delete(handles[0])
    end = time.monotonic() + 3  # nothing may change in this time; a slow machine only weakens the test
    while time.monotonic() < end:
        assert states()[0] == {JobState.RUNNING}
        time.sleep(0.3)


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "BackoffLimitExceeded"])
def test_a_job_is_not_over_before_its_pod(reason):
    """Before Kubernetes 1.31, a Job past its deadline is failed at once, while its pod still runs."""
    job = {
        "metadata": {"name": "one", "annotations": {CANCELLED: "true"}},
        "spec": {},
        "status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason}]},
    }
    container = {"name": STEP, "state": {"running": {"startedAt": now()}}}
    pod = {
        "metadata": {"name": "one-x", "creationTimestamp": now(), "deletionTimestamp": now()},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }
    assert status_of(job, [pod]).state is JobState.RUNNING
    over = {**pod, "status": {**pod["status"], "phase": "Failed"}}
    assert status_of(job, [over]).state is JobState.CANCELLED
    assert status_of(job, []).state is JobState.CANCELLED
    assert status_of(None, [pod]).state is JobState.RUNNING
    assert status_of(None, [over]).state is JobState.GONE
