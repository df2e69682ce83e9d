"""A connection has the same meaning here as in the hook of Airflow's Kubernetes provider."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from airflow.sdk import Connection

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes import connection as module
from airflow_stepop.hooks.kubernetes.connection import connect
from tests.support.waiting import PATIENCE_S

pytest.importorskip("airflow.providers.cncf.kubernetes")


def kubeconfig(*hosts):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": host, "cluster": {"server": f"https://{host}:6443"}} for host in hosts],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": host, "context": {"cluster": host, "user": "u"}} for host in hosts],
        "current-context": hosts[0],
    }


def given(extra):
    return Connection(conn_id="k8s", conn_type="kubernetes", extra=json.dumps(extra))


def through_the_hook(extra, context, monkeypatch):
    """Return host, token, verification of certificates and namespace of the provider's hook."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes.client import Configuration

    monkeypatch.setattr(KubernetesHook, "get_connection", lambda *_: given(extra))
    hook = KubernetesHook(conn_id="k8s", cluster_context=context)
    hook.client_configuration = Configuration()
    return (*_seen(hook.get_conn().configuration), hook.get_namespace())


def _seen(configuration):
    token = configuration.api_key.get("authorization") or configuration.api_key.get("BearerToken")
    return configuration.host, token, configuration.verify_ssl


@pytest.mark.parametrize("context", [None, "two"])
@pytest.mark.parametrize(
    "extra",
    [
        {"kube_config": json.dumps(kubeconfig("one", "two"))},
        {"kube_config": kubeconfig("one", "two"), "namespace": "ml"},
        {"kube_config": kubeconfig("one", "two"), "cluster_context": "two"},
        {"kube_config": kubeconfig("one", "two"), "disable_verify_ssl": True},
        {"kube_config": kubeconfig("one", "two"), "disable_verify_ssl": "true"},
        {"extra__kubernetes__kube_config": kubeconfig("one", "two"), "extra__kubernetes__namespace": "old"},
        {"kube_config_path": "PATH"},
        {},
    ],
    ids=["text", "mapping", "context", "unverified", "unverified-text", "older", "path", "default"],
)
def test_a_connection_means_the_same_to_the_provider_s_hook(extra, context, tmp_path, monkeypatch):
    path = tmp_path / "config"
    path.write_text(json.dumps(kubeconfig("one", "two")))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    extra = {name: str(path) if value == "PATH" else value for name, value in extra.items()}
    expected = through_the_hook(extra, context, monkeypatch)
    found = connect(given(extra), context, None)
    configuration = found.client.configuration
    namespace = found.namespace if expected[-1] else None
    assert (*_seen(configuration), namespace) == expected
    assert found.namespace == (expected[-1] or "default")


@pytest.mark.parametrize("wrong", ["namspace", "kubeconfig_path", "extra__kubernetes__namspace"])
def test_a_misspelt_field_of_the_extra_is_an_error(wrong):
    """Ignored, a misspelt ``namespace`` would let steps run in the namespace ``default``."""
    with pytest.raises(
        StepConfigError, match=rf"'k8s' has the unknown field '{wrong}' in its extra; did you mean '\w+'"
    ):
        connect(given({"kube_config": kubeconfig("one"), wrong: "ml"}), None, None)


def test_an_unrelated_field_of_the_extra_is_ignored():
    found = connect(given({"kube_config": kubeconfig("one"), "team": "ml"}), None, None)
    assert found.host == "https://one:6443"


def test_two_connections_of_one_process_lead_to_two_clusters():
    one, two = (connect(given({"kube_config": kubeconfig(host)}), None, None) for host in ("one", "two"))
    assert [one.host, two.host] == ["https://one:6443", "https://two:6443"]


def test_in_its_own_pod_airflow_has_the_pod_s_account(tmp_path, monkeypatch):
    for name, text in {"token": "of the pod", "ca.crt": "", "namespace": "airflow\n"}.items():
        (tmp_path / name).write_text(text or "-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(module, "IN_CLUSTER_NAMESPACE", str(tmp_path / "namespace"))
    monkeypatch.setattr("kubernetes.client.ApiClient", lambda configuration: configuration)
    for connection in (None, given({"in_cluster": True})):
        found = connect(connection, None, None)
        assert found.client.host == "https://10.0.0.1:443"
        assert _seen(found.client)[1].lower() == "bearer of the pod"
        assert found.namespace == "airflow"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"kube_config": kubeconfig("one"), "in_cluster": True}, "in_cluster and kube_config; only one"),
        ({"kube_config": "{"}, "leads to no Kubernetes cluster"),
        ({"kube_config": []}, "leads to no Kubernetes cluster"),
        ({"kube_config_path": "/nowhere/config"}, "leads to no Kubernetes cluster"),
        ({"in_cluster": True}, "leads to no Kubernetes cluster"),
        ({"kube_config": kubeconfig("one"), "cluster_context": "three"}, "leads to no Kubernetes cluster"),
    ],
)
def test_one_that_leads_nowhere_says_so(extra, text, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
    with pytest.raises(StepConfigError, match=text):
        connect(given(extra), None, None)


def test_the_second_client_is_not_loaded():
    """Importing the other client costs half a second of CPU, in both workers of a step."""
    script = "import sys, airflow_stepop.hooks.kubernetes.connection as c; import kubernetes; "
    script += "print('kubernetes_asyncio' in sys.modules, 'airflow.providers.cncf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.split() == ["False", "False"], done.stderr
