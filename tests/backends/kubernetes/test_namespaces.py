"""Steps run in another namespace than the connection's, and are found there, too."""

from __future__ import annotations

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.job import JobState, StepSpec
from airflow_stepop.testing import make_step
from tests.support.cluster import NAME, allow, may
from tests.support.waiting import wait_until

AT_ONCE = {"termination_grace_period_seconds": 1}


@pytest.fixture(scope="module")
def other(kubernetes_namespace):
    """A second namespace, in which Airflow has the same permissions."""
    from kubernetes import client, config

    config.load_kube_config()
    name = f"{kubernetes_namespace}-other"
    client.CoreV1Api().create_namespace({"metadata": {"name": name}})
    allow(name, kubernetes_namespace)
    yield name
    client.CoreV1Api().delete_namespace(name)


@pytest.fixture
def sees_all(kubernetes_namespace):
    """Let Airflow list the jobs of every namespace."""
    from kubernetes import client, config

    config.load_kube_config()
    rbac, name = client.RbacAuthorizationV1Api(), f"{NAME}-{kubernetes_namespace}"
    rule = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}
    rbac.create_cluster_role({"metadata": {"name": name}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": kubernetes_namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    rbac.create_cluster_role_binding({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    wait_until(lambda: may(kubernetes_namespace, "list", "jobs.batch"), "the right to be heard of")
    yield
    rbac.delete_cluster_role_binding(name)
    rbac.delete_cluster_role(name)
    wait_until(lambda: not may(kubernetes_namespace, "list", "jobs.batch"), "its end to be heard of")


@pytest.fixture
def submitted(other):
    hook = KubernetesStepHook()
    step = make_step(["sleep", "600"], settings={"namespace": other, **AT_ONCE})
    handle = hook.submit(step.spec, step.payload)
    yield step.spec, handle
    hook.delete(handle)


def test_status_and_end_know_the_namespace_from_the_handle(submitted, other):
    _, handle = submitted
    assert handle.detail["namespace"] == other
    assert KubernetesStepHook().status([handle])[handle].state in (JobState.PENDING, JobState.RUNNING)


def test_a_lookup_goes_where_the_settings_say(submitted, other):
    spec, handle = submitted
    after_a_crash = StepSpec(spec.name, spec.nonce, spec.labels, settings={"namespace": other})
    assert KubernetesStepHook().lookup(after_a_crash) == handle


def test_find_sees_other_namespaces_where_airflow_may_list_them(submitted, sees_all):
    spec, handle = submitted
    (found,) = KubernetesStepHook().find({"nonce": spec.nonce})
    assert found.handle == handle
    assert found.handle.detail == handle.detail


def test_find_sees_only_its_own_namespace_where_airflow_may_list_no_other(submitted):
    spec, _ = submitted
    assert list(KubernetesStepHook().find({"nonce": spec.nonce})) == []


def test_a_record_leads_to_the_jobs_of_another_namespace(submitted, other, kubernetes_namespace):
    """``find`` need not see them: the settings in the record, or its handle, say where they are."""
    spec, handle = submitted
    hook, nonce = KubernetesStepHook(), {"nonce": spec.nonce}
    assert hook.location_of(handle) == {"namespace": other}
    (found,) = hook.find_for(KubernetesSettings(namespace=other), nonce)
    assert (found.handle, found.handle.detail) == (handle, handle.detail)
    assert list(hook.find_for(KubernetesSettings(namespace=kubernetes_namespace), nonce)) == []


@pytest.mark.parametrize(
    ("namespace", "said"),
    [("no-such-namespace", "namespace 'no-such-namespace'"), ("default", "does not let Airflow do this")],
)
def test_a_namespace_that_takes_no_job_from_airflow_is_named(kubernetes_namespace, namespace, said):
    """The API server does not tell an account without permissions whether the namespace exists."""
    hook, step = KubernetesStepHook(), make_step(["true"], settings={"namespace": namespace})
    with pytest.raises(StepConfigError, match=f"{said}.* the Role in the documentation is needed there, too"):
        hook.submit(step.spec, step.payload)
