"""What a pod says of itself, in the words that a user can act upon."""

from __future__ import annotations

import pytest

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
