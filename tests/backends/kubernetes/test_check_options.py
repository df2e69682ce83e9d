"""``airflow stepop check`` with a namespace, settings and resources, and what it says about quotas."""

from __future__ import annotations

import json
import os
import uuid
from argparse import Namespace

import pytest

from airflow_stepop.cli.check import check_target, run_step
from airflow_stepop.hooks.kubernetes.access import demands
from airflow_stepop.inventory.targets import target_of
from airflow_stepop.lifecycle.options import NoTask
from airflow_stepop.resources import ResourceSettings
from tests.support.waiting import wait_until


def quota(name="small", scopes=(), **hard):
    return {"metadata": {"name": name}, "spec": {"scopes": list(scopes)}, "status": {"hard": hard}}


def limits(**fields):
    return {"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", **fields}]}}


@pytest.mark.parametrize(
    ("quotas", "ranges", "expected"),
    [
        ([quota(**{"limits.cpu": "4", "requests.memory": "8Gi"})], [], "cpu and memory"),
        ([quota(cpu="4")], [], "cpu"),
        ([quota(memory="4Gi")], [limits(default={"cpu": "1"})], "memory"),
        ([quota(**{"limits.memory": "4Gi"})], [limits(defaultRequest={"memory": "1Gi"})], "memory"),
        ([quota(**{"limits.memory": "4Gi"})], [limits(default={"memory": "1Gi"})], None),
        ([quota(**{"requests.memory": "4Gi"})], [limits(default={"memory": "1Gi"})], None),
        ([quota(memory="4Gi")], [limits(defaultRequest={"memory": "1Gi"})], None),
        ([quota(pods="4", **{"count/jobs.batch": "9", "requests.nvidia.com/gpu": "1"})], [], None),
        ([quota(**{"requests.storage": "9Gi", "requests.ephemeral-storage": "1Gi"})], [], None),
        ([quota(cpu="4", scopes=["NotTerminating"])], [], None),
        ([], [], None),
    ],
)
def test_a_quota_of_cpu_or_memory_demands_it_of_every_step(quotas, ranges, expected):
    """Else the API server refuses the pod: failed quota: small: must specify limits.cpu for: step."""
    found = demands(quotas, ranges)
    if expected is None:
        assert found == ""
        return
    arguments = expected.replace("cpu", "cpu_count")
    assert found.startswith(f"'small' demands {expected} of every step: set {arguments} in resource_settings")


# -- on a cluster


@pytest.fixture
def strict(admin, kubernetes_namespace):
    """Another namespace, with PodSecurity ``restricted`` and a quota, in which Airflow may run steps."""
    from tests.support.cluster import accounts, allow

    name = f"{kubernetes_namespace}-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.create_namespace({"metadata": {"name": name, "labels": labels}})
    wait_until(
        lambda: [one for one in accounts(admin, name) if one.metadata.name == "default"], "its account"
    )
    allow(name, kubernetes_namespace)
    hard = {"limits.cpu": "2", "limits.memory": "1Gi"}
    admin.create_namespaced_resource_quota(name, {"metadata": {"name": "small"}, "spec": {"hard": hard}})
    wait_until(
        lambda: bool(admin.read_namespaced_resource_quota("small", name).status.hard),
        "the quota to be counted",
    )
    yield name
    admin.delete_namespace(name)


PROFILE = {"type": "RuntimeDefault"}
RESTRICTED = {
    "security_context": {"run_as_user": 1000, "run_as_non_root": True, "seccomp_profile": PROFILE},
    "container_security_context": {
        "allow_privilege_escalation": False, "capabilities": {"drop": ["ALL"]},
    },
}  # fmt: skip
SMALL = ResourceSettings(cpu_count=0.1, memory="128MiB")


def test_a_step_of_check_passes_in_a_strict_namespace(strict):
    """Its settings, resources and namespace are those of a task."""
    target = target_of("kubernetes_default")
    task = NoTask(settings={**RESTRICTED, "namespace": strict}, resource_settings=SMALL)
    findings = [*check_target(target, task), *run_step(target, Namespace(image=None, limit=100.0), task)]
    assert [one for one in findings if not one.is_ok] == []
    assert findings[-1].message.startswith("a step ran")


@pytest.mark.parametrize("is_default", [False, True], ids=["option", "connection"])
def test_check_looks_at_the_namespace_that_is_named(strict, is_default, monkeypatch):
    """By the command line, or by the defaults of the connection."""
    task = NoTask(settings={"namespace": strict})
    if is_default:
        variable, task = "AIRFLOW_CONN_KUBERNETES_DEFAULT", NoTask()
        connection = json.loads(os.environ[variable])
        connection["extra"]["stepop"] = {"settings": {"namespace": strict}}
        monkeypatch.setenv(variable, json.dumps(connection))
    findings = list(check_target(target_of("kubernetes_default"), task))
    assert [one.message for one in findings if one.subject == "permissions"] == [
        f"Airflow may do everything that steps need in {strict!r}"
    ]


def test_check_names_a_namespace_in_which_it_may_do_nothing(kubernetes_namespace):
    task = NoTask(settings={"namespace": "default"})
    findings = list(check_target(target_of("kubernetes_default"), task))
    (permissions,) = (one for one in findings if one.subject == "permissions")
    assert not permissions.is_ok
    assert "may not, in 'default'" in permissions.message
