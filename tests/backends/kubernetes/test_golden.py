"""A real API server accepts the golden Jobs and knows every field of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.cluster import ClusterError

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_server_takes_the_golden_job(kubernetes_namespace, path):
    """``Strict``: a field that is not in the schema served by this server is an error.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation
    """
    cluster, job = KubernetesStepHook().cluster(), json.loads(path.read_text())
    job["metadata"].pop("namespace", None)
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = cluster.open("POST", cluster.path("jobs"), job, query)
    assert answer.status == 201
    taken = json.loads(answer.data)
    assert lacking(job, taken) == []


def test_the_server_refuses_what_it_does_not_know(kubernetes_namespace):
    """The test above can fail."""
    cluster, job = KubernetesStepHook().cluster(), json.loads(GOLDEN[0].read_text())
    job["metadata"].pop("namespace", None)
    job["spec"]["template"]["spec"]["nodeSelectr"] = {}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    with pytest.raises(ClusterError, match="nodeSelectr"):
        cluster.open("POST", cluster.path("jobs"), job, query)


def lacking(sent, taken, where=""):
    """Return every path at which the server's copy differs from the object that was sent."""
    if isinstance(sent, dict):
        return [
            text
            for key, value in sent.items()
            for text in lacking(value, (taken or {}).get(key), f"{where}.{key}")
        ]
    if isinstance(sent, list) and len(sent) == len(taken or []):
        return [
            text
            for index, (one, other) in enumerate(zip(sent, taken, strict=True))
            for text in lacking(one, other, f"{where}[{index}]")
        ]
    return [] if sent == taken else [f"{where}: {sent!r} is {taken!r}"]
