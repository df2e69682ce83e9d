"""Warnings of the cluster: the task waits for transient causes and fails for permanent ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.events import WarningEvent
from airflow_stepop.hooks.kubernetes.startup_failures import (
    FINAL_PULLS,
    TRANSIENT_REFUSALS,
    mount_error,
    refusal,
    startup_failure,
)

QUOTA = 'pods "s-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1'
SECURITY = 'pods "s-1" is forbidden: violates PodSecurity "restricted:latest": host namespaces'


def refused(said, count):
    return WarningEvent("FailedCreate", f"Error creating: {said}", count)


@pytest.mark.parametrize(
    "said",
    [
        'Operation cannot be fulfilled on resourcequotas "small": the object has been modified',
        "etcdserver: request timed out",
        "etcdserver: leader changed",
        "Internal error occurred: resource quota evaluation timed out",
        'Internal error occurred: failed calling webhook "w": denied the request',
        'pods "s-1" is forbidden: status unknown for quota: small, resources: pods',
    ],
)
def test_a_refusal_for_a_transient_reason_is_waited_for_however_often_it_comes(said):
    failure, reason, message = refusal([refused(QUOTA, 20), refused(said, 9)])
    assert failure is None
    assert (reason, message) == ("FailedCreate", said)


@pytest.mark.parametrize(
    ("said", "category"),
    [
        (SECURITY, Category.DENIED),
        ('admission webhook "w" denied the request: no', Category.DENIED),
        ('Pod "s-1" is invalid: spec.x: Invalid value', Category.DENIED),
        ('pods "s-1" is forbidden: serviceaccount "no" not found', Category.BAD_CONFIG),
    ],
)
def test_a_refusal_for_a_permanent_reason_is_final_the_second_time(said, category):
    assert refusal([refused(QUOTA, 20), refused(said, 1)])[0] is None
    failure, *_ = refusal([refused(QUOTA, 20), refused(said, 2)])
    assert failure.category is category
    assert said in failure.summary


def waiting(reason, message=""):
    state = {"waiting": {"reason": reason, "message": message}}
    return {"metadata": {}, "status": {"containerStatuses": [{"name": "step", "state": state}]}}


CREATING = waiting("ContainerCreating")
RUNNING = {"metadata": {}, "status": {"containerStatuses": [{"name": "step", "state": {"running": {}}}]}}
DRIVER = (
    'MountVolume.MountDevice failed for volume "v" : kubernetes.io/csi: '
    "attacher.MountDevice failed to create newCsiDriverClient: "
    "driver name efs.csi.aws.com not found in the list of registered CSI drivers"
)


@pytest.mark.parametrize(
    ("pod", "warned"),
    [
        (CREATING, [WarningEvent("FailedMount", DRIVER, 30)]),
        (CREATING, [WarningEvent("FailedMount", 'MountVolume.SetUp failed: secret "no" not found', 2)]),
        (waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting"), []),
        (
            waiting("CreateContainerError", "context deadline exceeded"),
            [WarningEvent("Failed", "Error: x", 9)],
        ),
        (
            waiting("CreateContainerError", 'name "x" is reserved for "y"'),
            [WarningEvent("Failed", "Error: x", 9)],
        ),
        (waiting("CreateContainerError", "no command specified"), [WarningEvent("Failed", "Error: x", 2)]),
        (waiting("CreateContainerError", "no"), [WarningEvent("Failed", "Error: ErrImagePull", 9)]),
        (
            waiting("ErrImagePull", "i/o timeout"),
            [
                WarningEvent("Failed", "Failed to pull image", 2),
                WarningEvent("Failed", "Error: ErrImagePull", 2),
            ],
        ),
        (
            waiting("ErrImagePull", "i/o timeout"),
            [WarningEvent("FailedMount", 'MountVolume.SetUp failed: configmap "late" not found', 3)],
        ),
    ],
)
def test_what_a_node_may_recover_from_is_waited_for(pod, warned):
    assert startup_failure(pod, warned) is None


@pytest.mark.parametrize(
    ("pod", "warned", "category"),
    [
        (
            CREATING,
            [WarningEvent("FailedMount", 'MountVolume.SetUp failed: configmap "no" not found', 3)],
            Category.BAD_CONFIG,
        ),
        (
            CREATING,
            [WarningEvent("FailedMount", 'failed to get NodeStageSecretRef: secrets "no" not found', 3)],
            Category.BAD_CONFIG,
        ),
        (waiting("CreateContainerConfigError", 'secret "no" not found'), [], Category.BAD_CONFIG),
        (
            waiting("CreateContainerError", "no command specified"),
            [WarningEvent("Failed", "Error: no command specified", 3)],
            Category.BAD_CONFIG,
        ),
        (waiting("ErrImagePull", "manifest unknown"), [], Category.IMAGE_PULL),
        (
            waiting("ErrImagePull", "i/o timeout"),
            [WarningEvent("Failed", "Failed to pull image", 3)],
            Category.IMAGE_PULL,
        ),
    ],
)
def test_what_a_node_cannot_recover_from_is_a_mistake(pod, warned, category):
    assert startup_failure(pod, warned).category is category


@pytest.mark.parametrize(
    ("pod", "is_told"),
    [
        (CREATING, True),
        (waiting("ErrImagePull", "i/o timeout"), False),
        (
            {"metadata": {}, "status": {"containerStatuses": [{"name": "step", "state": {"running": {}}}]}},
            False,
        ),
    ],
)
def test_a_mount_that_failed_before_it_succeeded_is_not_told(pod, is_told):
    """A busy node mounts a volume at its second try. Its events stay for an hour."""
    said = 'MountVolume.SetUp failed for volume "stepop-in" : failed to sync secret cache: timed out waiting'
    found = mount_error(pod, [WarningEvent("FailedMount", said, 1)])
    assert found == (("FailedMount", said) if is_told else ("", ""))


# -- names that look like a reason


@pytest.mark.parametrize("name", ["check-timeout", "unavailable", "exceeded-quota-x", "is-being-terminated"])
def test_a_name_does_not_make_a_refusal_transient(name):
    for said in (
        f'pods "{name}-x7k2p" is forbidden: violates PodSecurity "restricted:latest": host',
        f'admission webhook "{name}.example.com" denied the request: no',
        f'pods "s-1" is forbidden: no PriorityClass with name {name} was found',
        f'pods "s-1" is forbidden: failed quota: {name}: must specify limits.cpu for: step',
        f'pods "s-1" is forbidden: error looking up service account team/{name}: "{name}" not found',
    ):
        assert refusal([refused(said, 2)])[0] is not None, said


@pytest.mark.parametrize("name", ["is forbidden", "not-found", "denied"])
def test_a_name_does_not_make_a_refusal_final(name):
    said = f'Internal error occurred: cannot reach "{name}" at team/{name}: context canceled'
    assert refusal([refused(said, 30)])[0] is None


def pulling(image, message):
    pod = waiting("ErrImagePull", message)
    return {**pod, "spec": {"containers": [{"name": "step", "image": image}]}}


def test_an_image_whose_name_looks_like_a_permanent_reason_is_pulled_again():
    """The registry is away. The message has the names of registry and image, with and without quotes."""
    image = "denied-registry.corp:5000/team/claims-denied:not-found"
    said = (
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": '
        "failed to do request: "
        'Head "https://denied-registry.corp:5000/v2/team/claims-denied/manifests/not-found": '
        "dial tcp: lookup denied-registry.corp on 10.96.0.10:53: server misbehaving"
    )
    assert startup_failure(pulling(image, said), []) is None
    assert startup_failure(pulling(image, f"{said[:300]}"), []) is None  # events have a limited length
    final = f'failed to resolve reference "{image}": {image}: not found'
    assert startup_failure(pulling(image, final), []).category is Category.IMAGE_PULL
    final = "pull access denied, repository does not exist or may require authorization"
    assert startup_failure(pulling("denied", final), []).category is Category.IMAGE_PULL


@given(st.text("abcdefghijklmnopqrstuvwxyz-./0123456789", max_size=30), st.sampled_from(FINAL_PULLS))
def test_the_name_of_an_image_does_not_make_a_failed_pull_final(name, words):
    image = f"registry.corp/{name}{words.replace(' ', '-')}"
    said = f'failed to resolve reference "{image}": failed to do request to {image}: connection reset by peer'
    assert startup_failure(pulling(image, said), []) is None


@given(st.text("abcdefghijklmnopqrstuvwxyz-.0123456789", max_size=30), st.sampled_from(TRANSIENT_REFUSALS))
def test_the_name_of_a_pod_does_not_make_a_refusal_transient(name, words):
    said = f'pods "{name}{words}" is forbidden: violates PodSecurity "restricted:latest": x'
    assert refusal([refused(said, 2)])[0].category is Category.DENIED


def test_no_taint_or_claim_names_an_argument_by_its_key():
    from airflow_stepop.hooks.kubernetes.status import _arguments_behind

    said = "0/1 nodes are available: 1 node(s) had untolerated taint {free ports/pod affinity rules: }."
    assert list(_arguments_behind(said)) == ["tolerations"]
    assert list(_arguments_behind('persistentvolumeclaim "node affinity/selector" not found')) == ["volumes"]


def test_a_job_named_after_a_full_quota_is_no_full_quota():
    from kubernetes.client import ApiException

    from airflow_stepop.hooks.common.api_errors import Trouble
    from airflow_stepop.hooks.kubernetes.cluster import ClusterError, api_error

    def kind_of(said):
        answer = ApiException(status=403, reason="Forbidden")
        answer.body = json.dumps({"reason": "Forbidden", "message": said})
        return api_error(ClusterError("https://cluster", answer)).kind

    denied = 'jobs.batch "exceeded quota" is forbidden: User "x" cannot create resource "jobs"'
    assert kind_of(denied) is Trouble.DENIED
    assert kind_of('jobs.batch "s-1" is forbidden: exceeded quota: small, requested: x') is Trouble.QUOTA
