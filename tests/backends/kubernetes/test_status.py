"""The status of a pod, in words that a user can act upon."""

from __future__ import annotations

import json

import pytest

from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.informer import slim_job
from airflow_stepop.hooks.kubernetes.manifests import END, FAILURE, PRESERVED_RECEIPT
from airflow_stepop.hooks.kubernetes.outcome import ending_annotations
from airflow_stepop.hooks.kubernetes.pods import seconds
from airflow_stepop.hooks.kubernetes.status import status_of
from airflow_stepop.job import JobState


def waiting_for(message):
    """Return the native state of a job whose pod cannot be scheduled."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Pending", "conditions": [condition]},
    }
    return status_of({"metadata": {}, "spec": {}}, [pod]).description


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


TAKEN = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
RUNS = {"name": "step", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
AT = "2026-01-01T00:00:00Z"
ENDED = {"name": "step", "state": {"terminated": {"exitCode": 137, "reason": "Error", "startedAt": AT}}}
# the status that a kubelet reports for a container that never ran, once its pod is over
NEVER = {"name": "step", "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}


def failed(**status):
    """Return the failure of a job whose pod has this status."""
    pod = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Failed", **status}}
    found = status_of({"metadata": {}, "spec": {}, "status": {"conditions": [FAILED]}}, [pod])
    assert found.state is JobState.FAILED
    return found.failure


@pytest.mark.parametrize(
    "said",
    [
        'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ',
        'Container step exceeded its local ephemeral storage limit "1Mi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
    ],
)
def test_a_pod_that_exceeds_its_own_limit_is_not_evicted_for_others(said):
    failure = failed(reason="Evicted", message=said, containerStatuses=[ENDED])
    assert failure.category is Category.BAD_CONFIG
    assert said.strip() in failure.summary


def test_a_pod_that_makes_room_on_its_node_was_taken_away():
    message = "The node was low on resource: memory. "
    failure = failed(reason="Evicted", message=message, conditions=[TAKEN], containerStatuses=[ENDED])
    assert failure.category is Category.PREEMPTED


def test_an_init_container_that_was_evicted_has_not_failed():
    init = {"name": "download", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}
    waiting = {"name": "step", "state": {"waiting": {"reason": "PodInitializing"}}}
    statuses = {"initContainerStatuses": [init], "containerStatuses": [waiting]}
    assert failed(**statuses).category is Category.BAD_CONFIG
    assert failed(reason="Evicted", conditions=[TAKEN], **statuses).category is Category.PREEMPTED


def test_a_deadline_that_passes_before_the_step_began_is_a_start_timeout():
    waiting = {"name": "step", "state": {"waiting": {"reason": "ContainerCreating"}}}
    for one in (waiting, NEVER):
        failure = failed(reason="DeadlineExceeded", containerStatuses=[one])
        assert failure.category is Category.START_TIMEOUT
    assert failed(reason="DeadlineExceeded", containerStatuses=[ENDED]).category is Category.TIMEOUT


def test_a_note_of_the_receipt_counts_when_the_pod_is_gone():
    oom = {"name": "step", "state": {"terminated": {"exitCode": 1, "reason": "OOMKilled", "startedAt": AT}}}
    pod = {"metadata": {"creationTimestamp": AT}, "status": {"phase": "Failed", "containerStatuses": [oom]}}
    job = {
        "metadata": {"annotations": {PRESERVED_RECEIPT: ""}},
        "spec": {},
        "status": {"conditions": [FAILED]},
    }
    assert status_of(job, [pod]).failure.category is Category.OOM
    assert status_of(job, []).failure is None
    assert status_of({**job, "metadata": {}}, []).failure.category is Category.PREEMPTED


def test_a_job_that_is_suspended_again_waits_since_then():
    at = "2026-01-01T01:00:00Z"
    conditions = [{"type": "Suspended", "status": "True", "lastTransitionTime": at}]
    job = {"metadata": {}, "spec": {"suspend": True}, "status": {"conditions": conditions}}
    status = status_of(job, [])
    assert status.state is JobState.PENDING
    assert status.waits_since == seconds(at)
    again = {"conditions": [{**conditions[0], "status": "False"}]}
    assert status_of({**job, "spec": {}, "status": again}, []).waits_since == seconds(at)
    placed = {"metadata": {"creationTimestamp": at}, "status": {"phase": "Pending"}}
    assert status_of({**job, "spec": {}, "status": again}, [placed]).waits_since == seconds(at)
    runs = {"metadata": {"creationTimestamp": at}, "status": {"containerStatuses": [RUNS]}}
    assert status_of({**job, "status": {}}, [runs]).state is JobState.RUNNING, "nobody has ended it yet"


@pytest.mark.parametrize("counted", [{"failed": 1}, {"uncountedTerminatedPods": {"failed": ["uid"]}}])
def test_a_job_whose_pod_is_over_and_gone_does_not_wait_for_its_start(counted):
    assert status_of({"metadata": {}, "spec": {}, "status": counted}, []).state is JobState.RUNNING
    nothing = {"uncountedTerminatedPods": {}}
    assert status_of({"metadata": {}, "spec": {}, "status": nothing}, []).state is JobState.PENDING


@pytest.mark.parametrize(
    ("reason", "said", "category"),
    [  # the messages are those of kubelet 1.34
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
    failure = failed(reason=reason, message=f"Pod was rejected: {said}")
    assert failure.category is Category(category)
    assert failure.summary == f"The node refused the step's pod: {said}"
    assert failure.hint


DONE = {"name": "step", "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": AT}}}
WRONG = {"name": "step", "state": {"terminated": {"exitCode": 3, "reason": "Error", "startedAt": AT}}}
MESH = {"name": "mesh", "state": {"running": {"startedAt": AT}}}
BEING_REMOVED = {"deletionTimestamp": AT}


def a_job(*conditions, **annotations):
    return {
        "metadata": {"name": "one", "annotations": annotations},
        "spec": {},
        "status": {"conditions": list(conditions)},
    }


def a_pod(*containers, phase="Running", **metadata):
    return {
        "metadata": {"name": "one-x", "creationTimestamp": AT, **metadata},
        "spec": {},
        "status": {"phase": phase, "containerStatuses": list(containers)},
    }


def ended(status):
    """Return the annotation that ``preserve_outcome`` writes for this end."""
    return {END: json.dumps(status.to_json())}


@pytest.mark.parametrize("job", [a_job(), a_job(FAILED), a_job({**FAILED, "type": "FailureTarget"})])
@pytest.mark.parametrize(
    "pods", [[], [a_pod(DONE, **BEING_REMOVED)], [a_pod(DONE, phase="Failed", **BEING_REMOVED)]]
)
def test_a_step_that_has_succeeded_stays_so_when_its_pod_is_removed(job, pods):
    """The pod is deleted between the end of the step and the moment when the Job counts it."""
    before = status_of(a_job(), [a_pod(DONE)])
    assert before.state is JobState.SUCCEEDED
    assert status_of({**job, "metadata": a_job(**ended(before))["metadata"]}, pods) == before


@pytest.mark.parametrize("pods", [[], [a_pod(WRONG, MESH, **BEING_REMOVED)]])
def test_a_step_that_has_failed_stays_so_when_its_pod_is_removed(pods):
    """Its sidecar runs, so the Job has not counted it yet. A pod that was removed is no reason then."""
    before = status_of(a_job(), [a_pod(WRONG, MESH)])
    assert (before.state, before.failure) == (JobState.FAILED, None)
    assert status_of(a_job(**ended(before)), pods) == before
    assert status_of(a_job(FAILED, **ended(before)), []) == before


def test_sidecars_that_are_being_ended_change_no_end():
    for container in (DONE, WRONG):
        before = status_of(a_job(), [a_pod(container, MESH)])
        after = status_of(a_job(**ending_annotations(before)), [a_pod(container, MESH, **BEING_REMOVED)])
        assert after.state is before.state
        assert (after.failure is None) == (container is DONE), "the pod with the outcome goes"


def test_what_a_pod_tells_later_about_its_failure_counts():
    before = status_of(a_job(FAILED), [a_pod(ENDED, phase="Failed")])
    taken = a_pod(ENDED, phase="Failed")
    taken["status"]["conditions"] = [TAKEN]
    assert before.failure.category is Category.INFRA
    assert status_of(a_job(FAILED, **ended(before)), [taken]).failure.category is Category.PREEMPTED


def test_a_stream_keeps_the_end():
    end = ended(status_of(a_job(), [a_pod(DONE)]))
    job = {**a_job(**end), "metadata": {**a_job(**end)["metadata"], "creationTimestamp": AT, "uid": "u"}}
    assert status_of(slim_job(job), []).state is JobState.SUCCEEDED


DAMAGED = ["{", "[]", "{}", '{"state": "done"}', "[" * 900 + "]" * 900, "[" * 100_000]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_end_is_no_end(text):
    assert status_of(a_job(**{END: text}), [a_pod(RUNS)]).state is JobState.RUNNING


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_failure_is_that_of_the_pod(text):
    """An error would stop the reports about all other jobs of the namespace, too."""
    found = status_of(a_job(FAILED, **{FAILURE: text}), [a_pod(ENDED, phase="Failed")])
    assert found == status_of(a_job(FAILED), [a_pod(ENDED, phase="Failed")])
    assert found.state is JobState.FAILED


def test_a_job_that_is_deleted_is_gone_also_after_its_end():
    assert status_of(None, []).state is JobState.GONE
