"""``check`` against a real cluster: missing permissions, what to apply, and used-up quotas."""

from __future__ import annotations

import json
import os
import re
import uuid

import pytest
import yaml

from airflow_stepop.cli.smoke_test import TASK, SmokeTest, run_smoke_test
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.access import (
    NEEDED,
    limits_of,
    quota_finding,
    review,
    role_yaml,
    used_up,
)
from airflow_stepop.hooks.kubernetes.resources import amount_of
from airflow_stepop.payload.standalone import make_step
from airflow_stepop.resources import ResourceSettings
from tests.support.cluster import NO_IMAGE
from tests.support.paths import DOCS
from tests.support.waiting import wait_until

PAGE = DOCS / "backends" / "kubernetes.md"
NAME = "airflow-stepop"


def findings():
    found = list(KubernetesStepHook().check())
    assert all(one.is_ok or one.fix for one in found)
    return found


def about(subject):
    return [one for one in findings() if one.subject == subject]


# -- pure


def test_the_documented_role_has_the_needed_permissions():
    """The page, the check and the YAML that the check prints name the same permissions."""
    (printed,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", PAGE.read_text(), re.DOTALL)
    printed_rules = yaml.safe_load(printed)["rules"]
    ours = next(iter(yaml.safe_load_all(role_yaml("n", ""))))["rules"]
    for rules in (printed_rules, ours):
        granted = {
            (group, resource): set(rule["verbs"])
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        assert granted == {what: set(verbs) for what, verbs in NEEDED.items()}


def test_a_subresource_is_asked_for_as_a_subresource():
    asked = review("n", "", "pods/log", "get")["spec"]["resourceAttributes"]
    assert asked == {"namespace": "n", "group": "", "resource": "pods", "subresource": "log", "verb": "get"}


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("system:serviceaccount:a:b", {"kind": "ServiceAccount", "namespace": "a", "name": "b"}),
        ("ada", {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ada"}),
        ("", {"kind": "ServiceAccount", "namespace": "NAMESPACE", "name": "ACCOUNT"}),
    ],
)
def test_the_role_is_bound_to_whoever_asks(user, subject):
    role, binding = yaml.safe_load_all(role_yaml("steps", user))
    assert binding["subjects"] == [subject]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {one["metadata"]["namespace"] for one in (role, binding)} == {"steps"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", 0.5),
        ("2", 2),
        ("1Ki", 1024),
        ("1k", 1000),
        ("1.5Gi", 1.5 * 2**30),
        ("1e3", 1000),
        ("3E", 3e18),
    ],
)
def test_quantities(text, number):
    assert amount_of(text) == number


def test_a_wrong_quantity_is_refused():
    with pytest.raises(ValueError, match="'1 GB' is no quantity"):
        amount_of("1 GB")


@pytest.mark.parametrize(
    ("hard", "used", "empty"),
    [
        ({"pods": "2"}, {"pods": "1"}, []),
        ({"pods": "2"}, {"pods": "2"}, ["pods"]),
        ({"requests.cpu": "1"}, {"requests.cpu": "1000m"}, ["requests.cpu"]),
        ({"memory": "1Gi"}, {"memory": "1023Mi"}, []),
        ({"count/jobs.batch": "0"}, {}, ["count/jobs.batch"]),
        ({"requests.nvidia.com/gpu": "0"}, {}, []),
        ({"requests.nvidia.com/gpu": "1"}, {"requests.nvidia.com/gpu": "1"}, ["requests.nvidia.com/gpu"]),
        ({"services.loadbalancers": "0", "requests.storage": "1Gi"}, {"requests.storage": "1Gi"}, []),
    ],
)
def test_what_is_used_up_of_a_quota(hard, used, empty):
    assert used_up(hard, used) == empty


def test_a_quota_for_pods_without_a_deadline_does_not_concern_steps():
    quota = {
        "metadata": {"name": "services"},
        "spec": {"scopes": ["NotTerminating"]},
        "status": {"hard": {"pods": "1"}, "used": {"pods": "1"}},
    }
    assert quota_finding(quota).is_ok
    assert "NotTerminating" in quota_finding(quota).message


def test_limits_in_words():
    container = {"type": "Container", "max": {"memory": "2Gi"}, "default": {"memory": "1Gi", "cpu": "1"}}
    volume = {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}
    assert limits_of({"spec": {"limits": [container, volume]}}) == [
        "a step has at most memory 2Gi",
        "the default limit of a step is cpu 1, memory 1Gi",
    ]


# -- on a cluster


@pytest.fixture
def admin(kubernetes_namespace):
    from kubernetes import client, config

    return client, config.new_client_from_config()


def apply(admin, namespace, text):
    """Apply Roles and RoleBindings as an administrator."""
    client, connection = admin
    rbac = client.RbacAuthorizationV1Api(connection)
    for one in yaml.safe_load_all(text):
        if one["kind"] == "Role":
            rbac.replace_namespaced_role(NAME, namespace, one)
        else:
            rbac.replace_namespaced_role_binding(NAME, namespace, one)


def test_under_the_documented_role_everything_is_well(kubernetes_namespace):
    """The check needs no more permissions than the page lists.

    Quotas and limit ranges that Airflow may not read are no error.
    """
    found = findings()
    assert [one for one in found if not one.is_ok] == []
    assert {one.subject for one in found} == {"cluster", "permissions", "quotas", "limit ranges"}
    assert all("not checked" in one.message for one in found if one.subject in ("quotas", "limit ranges"))


def test_a_missing_verb_is_named_and_can_be_granted(admin, kubernetes_namespace):
    """The YAML that the check prints, applied unchanged, makes the check pass."""
    client, connection = admin
    rbac = client.RbacAuthorizationV1Api(connection)
    role = rbac.read_namespaced_role(NAME, kubernetes_namespace)
    before = connection.sanitize_for_serialization(role)
    before["metadata"] = {"name": NAME}
    (rule,) = (one for one in role.rules if one.resources == ["jobs"])
    rule.verbs = [verb for verb in rule.verbs if verb != "patch"]
    role.rules = [one for one in role.rules if one.resources != ["pods/log"]]
    rbac.replace_namespaced_role(NAME, kubernetes_namespace, role)
    try:
        (found,) = wait_until(
            lambda: [one for one in about("permissions") if not one.is_ok], "the smaller Role to be heard of"
        )
        assert "patch jobs; get pods/log" in found.message
        assert f"system:serviceaccount:{kubernetes_namespace}:{NAME}" in found.message
        apply(admin, kubernetes_namespace, found.fix.partition("\n")[2])
        wait_until(
            lambda: about("permissions"),
            "the larger Role to be heard of",
            holds=lambda found: all(one.is_ok for one in found),
        )
    finally:
        rbac.replace_namespaced_role(NAME, kubernetes_namespace, before)


@pytest.fixture
def sees_limits(admin, kubernetes_namespace):
    """Let Airflow see quotas and limit ranges, and the namespace itself."""
    client, connection = admin
    rbac = client.RbacAuthorizationV1Api(connection)
    rules = [
        {"apiGroups": [""], "resources": ["resourcequotas", "limitranges"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    ]
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": kubernetes_namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limits"}
    rbac.create_namespaced_role(kubernetes_namespace, {"metadata": {"name": "limits"}, "rules": rules})
    body = {"metadata": {"name": "limits"}, "roleRef": reference, "subjects": [subject]}
    rbac.create_namespaced_role_binding(kubernetes_namespace, body)
    yield
    rbac.delete_namespaced_role_binding("limits", kubernetes_namespace)
    rbac.delete_namespaced_role("limits", kubernetes_namespace)


def test_a_quota_that_is_used_up_is_reported(admin, kubernetes_namespace, sees_limits):
    client, connection = admin
    core = client.CoreV1Api(connection)
    hard = {"count/jobs.batch": "0", "pods": "5"}
    core.create_namespaced_resource_quota(
        kubernetes_namespace, {"metadata": {"name": "small"}, "spec": {"hard": hard}}
    )
    limits = {"type": "Container", "default": {"memory": "256Mi"}, "max": {"memory": "1Gi"}}
    core.create_namespaced_limit_range(
        kubernetes_namespace, {"metadata": {"name": "tight"}, "spec": {"limits": [limits]}}
    )
    try:
        (quota,) = wait_until(
            lambda: [one for one in about("quotas") if not one.is_ok], "the quota to be heard of"
        )
        assert "'small'" in quota.message
        assert "Used up: count/jobs.batch" in quota.message
        assert re.search(r"\d of 5 pods", quota.message)
        (limit,) = about("limit ranges")
        assert limit.is_ok
        assert "the default limit of a step is memory 256Mi" in limit.message
        assert "at most memory 1Gi" in limit.message
        (seen,) = about("namespace")
        assert seen.is_ok
    finally:
        core.delete_namespaced_resource_quota("small", kubernetes_namespace)
        core.delete_namespaced_limit_range("tight", kubernetes_namespace)


def test_a_namespace_that_is_not_there(monkeypatch, kubernetes_namespace):
    """The check names the missing namespace and the command that creates it, without a traceback."""
    name = f"no-{uuid.uuid4().hex[:8]}"
    extra = {"kube_config_path": os.environ["KUBECONFIG"], "namespace": name}
    monkeypatch.setenv("AIRFLOW_CONN_TYPO", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    (found,) = (one for one in KubernetesStepHook("typo").check() if one.subject == "namespace")
    assert not found.is_ok
    assert name in found.message
    assert f"kubectl create namespace {name}" in found.fix


def extra_of(kubernetes_namespace, change):
    """Return the extra of the usual connection with its kubeconfig changed."""
    extra = json.loads(os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"])["extra"]
    config = json.loads(extra["kube_config"])
    change(config)
    return {**extra, "kube_config": json.dumps(config)}


def test_an_account_that_the_cluster_does_not_know(monkeypatch, kubernetes_namespace):
    def forget(config):
        config["users"][0]["user"]["token"] = "nobody"

    extra = extra_of(kubernetes_namespace, forget)
    monkeypatch.setenv("AIRFLOW_CONN_STALE", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    found = [one for one in KubernetesStepHook("stale").check() if not one.is_ok]
    assert len(found) == 1
    assert "Unauthorized" in found[0].message


def test_a_cluster_that_does_not_answer(monkeypatch, kubernetes_namespace):
    def lead_astray(config):
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"

    extra = extra_of(kubernetes_namespace, lead_astray)
    monkeypatch.setenv("AIRFLOW_CONN_ASTRAY", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    (found,) = KubernetesStepHook("astray").check()
    assert not found.is_ok
    assert "https://127.0.0.1:9 does not answer" in found.message


def test_a_connection_that_leads_nowhere(monkeypatch):
    extra = {"kube_config_path": "/nowhere/config"}
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    (found,) = KubernetesStepHook("nowhere").check()
    assert not found.is_ok
    assert "leads to no Kubernetes cluster" in found.message


# -- check runs a step


def nothing_is_left(namespace, admin):
    client, connection = admin
    jobs = client.BatchV1Api(connection).list_namespaced_job(namespace, label_selector=SELECTOR).items
    core = client.CoreV1Api(connection)
    kinds = (core.list_namespaced_secret, core.list_namespaced_pod)
    return not jobs and not any(kind(namespace, label_selector=SELECTOR).items for kind in kinds)


SELECTOR = f"airflow-stepop/dag-id={TASK['dag_id']}"


def test_a_step_is_run_and_leaves_nothing(admin, kubernetes_namespace):
    (found,) = run_smoke_test(KubernetesStepHook(), "tests", None)
    assert found.is_ok, found
    assert "outcome read after" in found.message
    wait_until(lambda: nothing_is_left(kubernetes_namespace, admin), "nothing to be left of the step")


def test_a_step_whose_image_is_not_there(admin, kubernetes_namespace):
    (found,) = run_smoke_test(KubernetesStepHook(), "tests", NO_IMAGE, 180)
    assert not found.is_ok
    assert found.message.startswith("image_pull: ")
    assert NO_IMAGE in found.message
    assert "image_pull_secrets" in found.fix
    wait_until(lambda: nothing_is_left(kubernetes_namespace, admin), "nothing to be left of the step")


def test_a_step_that_waits_is_given_up_in_the_cluster_s_own_words(admin, kubernetes_namespace):
    resources = ResourceSettings(cpu_count=100)
    step = make_step(["true"], labels=TASK, resources=resources, timeout_s=20, start_timeout_s=20)
    trial = SmokeTest(KubernetesStepHook(), step, 20)
    found = trial.run()
    assert trial.remove() == []
    assert found.message.startswith("start_timeout: the step had not begun after 20 s")
    # another test may have tainted the node at this moment
    assert re.search(r"Insufficient cpu|untolerated taint", found.message)
    wait_until(lambda: nothing_is_left(kubernetes_namespace, admin), "nothing to be left of the step")
