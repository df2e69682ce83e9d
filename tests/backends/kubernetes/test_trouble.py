"""Answers of an API server that has trouble or no longer accepts the token."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import OutcomeLostError, QuotaError, StepConfigError, WrongHostError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes import cluster as cluster_module
from airflow_stepop.hooks.kubernetes.cluster import ClusterError, message_of
from airflow_stepop.hooks.kubernetes.manifests import (
    END,
    FAILURE,
    OUTCOME_IN_LOG,
    PRESERVED_MAC,
    PRESERVED_RECEIPT,
)
from airflow_stepop.hooks.kubernetes.outcome import preserved_annotations
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.testing import make_step
from tests.support.api_server import ApiServer


@pytest.fixture
def server():
    server = ApiServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(server, tmp_path, monkeypatch):
    """A configuration whose token is in a file of its own."""
    (tmp_path / "token").write_text("first")
    path = tmp_path / "config"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"tokenFile": str(tmp_path / "token")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(content))
    extra = {"kube_config_path": str(path), "namespace": "here"}
    monkeypatch.setenv("AIRFLOW_CONN_RENEWED", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    return path


@pytest.fixture
def cluster(config):
    found = KubernetesStepHook("renewed").cluster()
    yield found
    found.client.close()


def test_a_token_that_was_replaced_is_read_again(server, config, cluster):
    assert cluster.request("GET", "/version") == {"major": "1"}
    server.token = "second"
    (config.parent / "token").write_text("second")
    assert cluster.request("GET", "/version") == {"major": "1"}
    assert server.asked[401] == 1


def test_a_token_that_was_not_replaced_yet_is_seldom_read_again(server, config, cluster, monkeypatch):
    server.token = "second"
    for _ in range(3):
        with pytest.raises(Exception, match="401"):
            cluster.request("GET", "/version")
    monkeypatch.setattr(cluster_module, "RENEWAL_PAUSE_S", 0)
    (config.parent / "token").write_text("second")
    assert cluster.request("GET", "/version") == {"major": "1"}


def test_a_configuration_file_that_is_gone_hides_no_other_error(server, config, cluster):
    server.token = "second"
    os.remove(config)
    with pytest.raises(Exception, match="401") as raised:
        cluster.request("GET", "/version")
    assert message_of(raised.value) == "who?"


def test_an_error_has_what_the_server_says_and_no_headers(server, cluster):
    server.status, server.answer = 403, {"message": 'jobs.batch is forbidden: User "me" cannot get it'}
    with pytest.raises(ClusterError) as raised:
        cluster.request("GET", "/version")
    hint = "(airflow stepop check shows the missing permissions)"
    assert str(raised.value) == f"{cluster.host} answers 403: {server.answer['message']} {hint}"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_trouble(server, cluster, status):
    server.status = status
    with pytest.raises(Exception, match=str(status)) as raised:
        cluster.request("GET", "/version")
    assert KubernetesStepHook().is_transient(raised.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_permanent_trouble(server, cluster, status):
    server.status, server.answer = status, {"reason": "NotFound" if status == 404 else ""}
    with pytest.raises(Exception, match=str(status)) as raised:
        cluster.request("GET", "/version")
    assert not KubernetesStepHook().is_transient(raised.value)


def test_nothing_is_gone_because_a_gateway_does_not_find_its_server(server, cluster):
    """A gateway answers 404 for every address, with a text of its own."""
    server.status, server.answer = 404, {"error": "no route"}
    with pytest.raises(Exception, match="answers 404") as raised:
        cluster.get("jobs", "one")
    assert KubernetesStepHook().is_transient(raised.value)
    server.answer = {"reason": "NotFound", "message": 'jobs.batch "one" not found'}
    assert cluster.get("jobs", "one") is None


def test_no_job_is_gone_that_was_made_elsewhere(server, cluster):
    """Somebody changed the current context of the configuration file, and it leads to another cluster."""
    server.status, server.answer = 404, {"reason": "NotFound"}
    hook = KubernetesStepHook("renewed")
    here = JobHandle("kubernetes", "renewed", hook.scope(), "one", "one", {"namespace": "here"})
    there = replace(here, scope="production.example:6443/here")
    hook._states(hook._cluster(here))._objects = lambda _: ({}, {})  # the server knows neither jobs nor pods
    assert hook.status([here])[here].state is JobState.GONE
    for ask in (lambda: hook.status([there]), lambda: hook.cancel(there), lambda: hook.outcome(there)):
        with pytest.raises(WrongHostError, match=r"made in production.*leads to 127\.0\.0\.1"):
            ask()
    with pytest.raises(OutcomeLostError):
        hook.outcome(here)
    hook.cancel(here)


def test_a_server_that_is_away_comes_back(server, cluster):
    server.shutdown()
    server.server_close()
    with pytest.raises(Exception, match="refused") as raised:
        cluster.request("GET", "/version")
    assert KubernetesStepHook().is_transient(raised.value)


def test_a_conflict_at_the_counter_of_a_quota_is_not_taken_for_an_existing_object(server, cluster):
    """Two creations at once may conflict: https://github.com/kubernetes/kubernetes/issues/67761"""
    server.status, server.answer = 409, {"reason": "Conflict", "message": "resourcequotas was modified"}
    with pytest.raises(Exception, match="409") as raised:
        cluster.create("jobs", {})
    assert KubernetesStepHook().is_transient(raised.value)
    server.answer = {"reason": "AlreadyExists"}
    assert cluster.create("jobs", {}) is None


def refuse_to_create(server, status, reason, message):
    """Let the API server answer that no job exists and that none may be created."""
    server.status, server.answer = 404, {"reason": "NotFound", "message": "not found"}
    server.answer_to_post = status, {"reason": reason, "message": message}


def test_a_namespace_that_is_not_there_is_named(server, config):
    """The API server answers so to an account that may create jobs in every namespace."""
    refuse_to_create(server, 404, "NotFound", 'namespaces "typo" not found')
    hook, step = KubernetesStepHook("renewed"), make_step(["true"], settings={"namespace": "typo"})
    with pytest.raises(StepConfigError, match="has no namespace 'typo': namespaces \"typo\" not found"):
        hook.submit(step.spec, step.payload)


def test_a_quota_that_is_not_counted_yet_is_waited_for(server, config):
    """The API server answers so for a moment after a quota was created."""
    said = 'jobs.batch "s-1" is forbidden: status unknown for quota: jobs, resources: count/jobs.batch'
    refuse_to_create(server, 403, "Forbidden", said)
    hook, step = KubernetesStepHook("renewed"), make_step(["true"])
    with pytest.raises(QuotaError, match=r"is not counted yet: .*status unknown for quota: jobs"):
        hook.submit(step.spec, step.payload)


FAILED = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
RECEIPT = json.dumps({"protocol": 1, "digest": "d", "size": 9000})
OOM = JobStatus(JobState.FAILED, Failure(Category.OOM, "The step ran out of memory"))


def ended(annotations):
    """Return a failed job and its pod; the pod's receipt lacks the outcome."""
    run = {"exitCode": 1, "message": RECEIPT, "startedAt": "2026-01-01T00:00:00Z"}
    container = {"name": "step", "state": {"terminated": run}}
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [container]}}
    return {"metadata": {"uid": "u", "annotations": annotations}, "status": {"conditions": [FAILED]}}, pod


@pytest.mark.parametrize("status", [500, 404])
def test_an_outcome_in_an_unreadable_log_does_not_count_as_preserved(server, cluster, status):
    server.status = status
    job, pod = ended({OUTCOME_IN_LOG: "true"})
    assert preserved_annotations(cluster, job, [pod], OOM).keys() == {END, FAILURE}
    assert preserved_annotations(cluster, job, [pod], JobStatus(JobState.FAILED)).keys() == {END}
    assert server.asked[status] == 2


def test_for_an_outcome_in_the_store_the_receipt_is_enough(server, cluster):
    job, pod = ended({})
    assert preserved_annotations(cluster, job, [pod], JobStatus(JobState.FAILED)).keys() == {
        END,
        PRESERVED_RECEIPT,
        PRESERVED_MAC,
    }
    assert not server.asked


def test_nothing_is_noted_of_a_pod_that_is_not_seen(cluster):
    """The stream may not have delivered the pod yet. A later call may see the pod and note its failure."""
    job, _ = ended({OUTCOME_IN_LOG: "true"})
    assert preserved_annotations(cluster, job, [], OOM) == {}
