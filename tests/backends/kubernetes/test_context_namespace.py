"""The namespace of a kubeconfig's context counts, as for kubectl; a kubeconfig that is missing is named."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Connection

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.connection import connect

pytest.importorskip("airflow.providers.cncf.kubernetes")

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://c:6443"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [
        {"name": "ml", "context": {"cluster": "c", "user": "u", "namespace": "team-ml"}},
        {"name": "ops", "context": {"cluster": "c", "user": "u", "namespace": "team-ops"}},
        {"name": "bare", "context": {"cluster": "c", "user": "u"}},
    ],
    "current-context": "ml",
}


def given(**extra):
    return Connection(conn_id="k8s", conn_type="kubernetes", extra=json.dumps(extra))


@pytest.fixture
def path(tmp_path, monkeypatch):
    found = tmp_path / "config"
    found.write_text(json.dumps(CONFIG))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(LOCATION, str(found))
    return str(found)


def ways(path):
    """Return every way to name the kubeconfig: its text, its content, its path, and the default path."""
    return [{"kube_config": json.dumps(CONFIG)}, {"kube_config": CONFIG}, {"kube_config_path": path}, {}]


@pytest.mark.parametrize(
    ("context", "expected"),
    [(None, "team-ml"), ("ml", "team-ml"), ("ops", "team-ops"), ("bare", "default")],
)
def test_the_namespace_of_the_context_counts(path, context, expected):
    for way in ways(path):
        assert connect(given(**way), context, None).namespace == expected
        if context is not None:
            assert connect(given(**way, cluster_context=context), None, None).namespace == expected
            assert connect(given(**way, cluster_context="ml"), context, None).namespace == expected
    assert connect(None, context, None).namespace == expected


def test_what_the_connection_and_the_step_name_wins(path):
    for way in ways(path):
        assert connect(given(**way, namespace="mine"), "ops", None).namespace == "mine"
        assert connect(given(**way, namespace="mine"), "ops", "step").namespace == "step"


@pytest.mark.parametrize("name", ["/nowhere/config", "/nowhere/a:/nowhere/b", "~/no-such-kubeconfig"])
def test_a_kubeconfig_that_is_missing_is_named(name, monkeypatch, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [one.replace("~", str(tmp_path)) for one in name.split(":")]
    expected = f"there is no file {' or '.join(map(repr, paths))}"
    with pytest.raises(StepConfigError) as error:
        connect(given(kube_config_path=name), None, None)
    assert f"connection 'k8s' leads to no Kubernetes cluster: {expected}. Give" in str(error.value)
    monkeypatch.setattr(LOCATION, name)  # where KUBECONFIG leads
    for connection in (None, given()):
        with pytest.raises(StepConfigError) as error:
            connect(connection, None, None)
        assert f"leads to no Kubernetes cluster: {expected}. Give" in str(error.value)


def test_a_file_that_is_there_and_wrong_keeps_its_own_message(path, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("{")
    with pytest.raises(StepConfigError, match="leads to no Kubernetes cluster"):
        connect(given(kube_config_path=str(wrong)), None, None)
    with pytest.raises(StepConfigError, match=r"leads to no Kubernetes cluster: .*no-such-context"):
        connect(given(kube_config_path=path), "no-such-context", None)
