"""The copy of a receipt in the annotations of a Job, which is read when the pod is gone.

No cluster: a server returns the Job as the hook has left it.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.manifests import PRESERVED_MAC, PRESERVED_RECEIPT
from airflow_stepop.job import JobHandle
from tests.support.stored_forms import ENVIRONMENT, placed, versions
from tests.support.stored_services import StoredCluster, cluster_connection, serving

FORMS = versions()[-1]


@pytest.fixture
def job(monkeypatch):
    """Return a Job without a pod, a hook and the handle."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    cluster = StoredCluster(FORMS.read("kubernetes/preserved"))
    with serving(cluster.answer) as url:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster_connection(url))
        record = placed(FORMS.read("records/kubernetes_submitted"), {"@SERVER@": url.removeprefix("http://")})
        handle = JobHandle.from_json(record["handle"])
        yield cluster.objects[f"jobs/{record['name']}"], KubernetesStepHook(), handle


def forged(data):
    digest = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return json.dumps({**digest, "outcome": b64encode(data).decode()})


def test_a_copy_that_somebody_has_changed_authenticates_nothing(job):
    """Whoever may patch Jobs writes any receipt. Without a digest, no pickle of the outcome is loaded."""
    found, hook, handle = job
    found["metadata"]["annotations"][PRESERVED_RECEIPT] = forged(b"{}")
    report = hook.outcome(handle)
    assert (report.data, report.digest) == (b"{}", None)
    assert "is not signed by this deployment" in report.missing
    del found["metadata"]["annotations"][PRESERVED_MAC]
    assert hook.outcome(handle).digest is None


def test_the_copy_of_another_job_authenticates_nothing(job):
    found, hook, handle = job
    assert hook.outcome(handle).digest is not None
    found["metadata"]["uid"] = "another"
    assert hook.outcome(replace(handle, instance="another")).digest is None


def test_a_job_without_annotations_has_left_no_outcome(job):
    """Whoever may patch Jobs may remove them all."""
    found, hook, handle = job
    del found["metadata"]["annotations"]
    with pytest.raises(OutcomeLostError):
        hook.outcome(handle)
