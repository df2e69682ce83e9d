"""What a pod says of itself, in the words that a user can act upon."""

from __future__ import annotations

import pytest

from airflow_stepop.job import Category, JobState
from airflow_stepop.kubernetes.verdict import status_of


def waiting_for(message):
    """Return the word of a job whose pod the scheduler has found no node for."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Pending", "conditions": [condition]},
    }
    return status_of({"metadata": {}, "spec": {}}, [pod]).native


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("0/3 nodes are available: 1 Insufficient memory, 2 Insufficient cpu.", "memory, cpu_count"),
        ("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "gpu_count, gpu_resource"),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "gpu_type, spot, node_selector, affinity",
        ),
        ("0/2 nodes are available: 2 node(s) had untolerated taint {a: b}.", "tolerations"),
        (
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
            "1 node(s) didn't match pod affinity rules.",
            "gpu_type, spot, node_selector, affinity",
        ),
        ('persistentvolumeclaim "data" not found', "volumes"),
    ],
)
def test_what_no_node_has_is_named_as_the_user_asked_for_it(said, options):
    assert waiting_for(said) == f"Unschedulable: {said} (see {options})"


def test_other_words_of_the_scheduler_are_left_alone():
    assert waiting_for("0/1 nodes are available: 1 Too many pods.").endswith("1 Too many pods.")


FAILED = {
    "type": "Failed",
    "status": "True",
    "reason": "BackoffLimitExceeded",
    "lastTransitionTime": "2026-01-01T00:00:09Z",
}


@pytest.mark.parametrize(
    ("reason", "said", "category"),
    [  # the words are those of kubelet 1.34
        (
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 500000, used: 0, capacity: 2000",
            "no_capacity",
        ),
        (
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            "no_capacity",
        ),
        (
            "UnexpectedAdmissionError",
            "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices "
            "nvidia.com/gpu, which is unexpected",
            "no_capacity",
        ),
        ("SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted', "bad_config"),
        ("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS", "bad_config"),
    ],
)
def test_a_node_that_refuses_the_pod_is_no_failure_of_the_step(reason, said, category):
    pod = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Failed", "reason": reason, "message": f"Pod was rejected: {said}"},
    }
    status = status_of({"metadata": {}, "spec": {}, "status": {"conditions": [FAILED]}}, [pod])
    assert status.state is JobState.FAILED
    assert status.failure.category is Category(category)
    assert status.failure.summary == f"The node refused the step's pod: {said}"
    assert status.failure.hint
