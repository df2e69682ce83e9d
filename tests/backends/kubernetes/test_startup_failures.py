"""Warnings of the cluster: the task waits for transient causes and fails for permanent ones."""

from __future__ import annotations

import pytest

from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.events import WarningEvent
from airflow_stepop.hooks.kubernetes.startup_failures import refusal, startup_failure

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
