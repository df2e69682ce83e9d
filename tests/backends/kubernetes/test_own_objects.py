"""Which Job and which pods are those of a handle; the other Job of the same name is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.hooks.kubernetes.cluster import ClusterError
from airflow_stepop.hooks.kubernetes.ending import annotate, delete_job, end_job
from airflow_stepop.hooks.kubernetes.informer import slim_job, slim_pod
from airflow_stepop.hooks.kubernetes.manifests import CANCELLED, NONCE
from airflow_stepop.hooks.kubernetes.own_objects import own_objects
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.testing import make_step
from tests.support.cluster_jobs import wait_no_pods, wait_running
from tests.support.waiting import wait_until

AT = "2026-01-01T00:00:00Z"
HANDLE = JobHandle("kubernetes", None, "host/steps", "s-1", "s-1", nonce="ours", instance="uid-1")
OLD = replace(HANDLE, instance="")
UNBOUND = replace(OLD, nonce="")


def a_job(uid, nonce, **more):
    labels = {NONCE: nonce} if nonce else {}
    metadata = {"name": "s-1", "uid": uid, "creationTimestamp": AT, "labels": labels, **more}
    return {"metadata": metadata, "spec": {"suspend": False}}


def a_pod(name, uid=None, nonce=None):
    owners = [{"kind": "Job", "name": "s-1", "uid": uid}] if uid else None
    metadata = {"name": name, "uid": name, "creationTimestamp": AT, "labels": {NONCE: nonce} if nonce else {}}
    return {"metadata": {**metadata, **({"ownerReferences": owners} if owners else {})}}


OURS, THEIRS, ORPHAN = a_pod("ours", "uid-1", "ours"), a_pod("theirs", "uid-2", "theirs"), a_pod("orphan")


@pytest.mark.parametrize("slim", [False, True], ids=["whole", "of a watch"])
@pytest.mark.parametrize(
    ("handle", "job", "is_own", "pods"),
    [
        (HANDLE, a_job("uid-1", "ours"), True, {"ours"}),
        # kubectl delete --cascade=orphan: the pod loses its owner before the Job is gone
        (HANDLE, a_job("uid-1", "ours", deletionTimestamp=AT), True, {"ours", "orphan"}),
        (HANDLE, a_job("uid-2", "theirs"), False, {"ours", "orphan"}),
        (HANDLE, a_job("uid-2", "ours"), False, {"ours", "orphan"}),
        (HANDLE, a_job("uid-2", ""), False, {"ours", "orphan"}),
        (HANDLE, None, False, {"ours", "orphan"}),
        (OLD, a_job("uid-1", "ours"), True, {"ours"}),
        (OLD, a_job("uid-2", "theirs"), False, {"ours", "orphan"}),
        (UNBOUND, a_job("uid-2", "theirs"), True, {"theirs"}),
        (UNBOUND, None, False, {"ours", "theirs", "orphan"}),
    ],
)
def test_objects_of_another_job_are_left_out(handle, job, is_own, pods, slim):
    every = [OURS, THEIRS, ORPHAN]
    if slim:
        job, every = slim_job(job) if job is not None else None, [slim_pod(pod) for pod in every]
    own, found = own_objects(handle, job, every)
    assert (own is not None) is is_own
    assert {pod["metadata"]["name"] for pod in found} == pods


def test_a_pod_without_an_owner_tells_nothing_of_a_job_that_is_there():
    """Whoever may create pods, and not Jobs, could put the message of a pod in the place of ours."""
    forged = a_pod("forged", nonce="ours")
    forged["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "s-1"
    _, found = own_objects(HANDLE, a_job("uid-1", "ours"), [OURS, forged])
    assert found == [OURS]


@pytest.fixture
def replaced(hook):
    """Return the Job as somebody has read it, the handle of the Job with its name, and a client."""
    mine, cluster = make_step(["sleep", "600"]), hook.cluster()
    handle = hook.submit(mine.spec, mine.payload)
    read = cluster.get("jobs", handle.id)
    hook.delete(handle)
    wait_no_pods(hook, handle)
    wait_until(lambda: cluster.get("secrets", handle.id), "no Secret", holds=lambda found: found is None)
    other = make_step(["sleep", "600"], name=handle.id)
    theirs = hook.submit(other.spec, other.payload)
    wait_running(hook, theirs)
    yield read, theirs, cluster
    hook.delete(theirs)


def test_a_job_that_took_the_name_after_the_read_is_not_touched(hook, replaced):
    """The API server compares the uid: nothing can come between the comparison and the act."""
    read, theirs, cluster = replaced
    before = cluster.get("jobs", theirs.id)["metadata"]["annotations"]
    end_job(cluster, read, {CANCELLED: "true"})
    annotate(cluster, read, {CANCELLED: "true"})
    delete_job(cluster, read)
    now = cluster.get("jobs", theirs.id)
    assert now["metadata"]["annotations"] == before
    assert "deletionTimestamp" not in now["metadata"]
    assert hook.status([theirs])[theirs].state is JobState.RUNNING


def test_a_patch_that_the_cluster_refuses_is_an_error(submitted, hook):
    """A refusal counts as "another Job has the name" only if that is so."""
    _, handle = submitted(["sleep", "600"])
    job = hook.cluster().get("jobs", handle.id)
    with pytest.raises(ClusterError, match="answers 422"):
        annotate(hook.cluster(), job, {}, {"activeDeadlineSeconds": -1})
