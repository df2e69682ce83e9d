"""Jobs that an earlier version started: a later version attaches to them, cancels them and collects them.

A local job runs here with the supervisor and the runner of the earlier version, which an upgrade does not
replace. The objects of a Kubernetes Job and of a SageMaker job come from a server that has them as they were.
What a service itself does is in the tests of its backend.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.serde import deserialize

from airflow_stepop.hooks.kubernetes.manifests import CANCELLED
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.payload.outcome import to_xcom
from airflow_stepop.record import STATE_KEY
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import Log
from tests.support.stored_forms import StoredState, part_of, placed
from tests.support.stored_services import (
    StoredCluster,
    StoredTrainingJob,
    cluster_connection,
    sagemaker_connection,
    serving,
)
from tests.support.waiting import wait_until


class Found:
    """A new try of a task, which finds a stored record."""

    def __init__(self, record, request_of):
        self.state = StoredState(record)
        self.request = request_of(record)
        self.hook = self.request.hook(record["backend"], record["conn_id"])
        self.lifecycle = StepLifecycle(self.request, self.state, Log())

    def attach(self):
        """Attach to the job, and check that the try has started no other one."""
        handle = self.lifecycle.begin()
        assert isinstance(handle, JobHandle)
        assert not self.lifecycle.has_begun_submit
        return handle

    def wait_for(self, handle, state):
        return wait_until(
            lambda: self.hook.status([handle])[handle],
            f"{handle} to be {state}",
            holds=lambda status: status.state is state,
        )

    def collect(self, handle):
        collected = self.lifecycle.finish(handle, StopReason.FINISHED)
        assert collected.failure is None, collected.failure
        return {name: one.load() for name, one in to_xcom(collected.data["result"]).items()}


RESULT = {"answer.txt": b"forty-two\n"}

# -- local


@pytest.mark.parametrize("what", ["submitted", "intended"])
def test_a_local_job_is_attached_to_and_collected(forms, places, local_job, request_of, what):
    """A record without a handle leads to the same job: its name finds it."""
    local_job.start()
    one = Found(placed(forms.read(f"records/{what}"), places), request_of)
    handle = one.attach()
    assert one.hook.status([handle])[handle].state is JobState.RUNNING
    stored = local_job.record["handle"]
    assert part_of(one.state.get(STATE_KEY)["handle"], stored) == stored
    local_job.let_end()
    one.wait_for(handle, JobState.SUCCEEDED)
    assert one.collect(handle) == RESULT
    assert [line.text for line in one.hook.tail(handle, 1).lines] == ["begun"]


def test_a_local_job_is_cancelled(local_job, request_of):
    local_job.start()
    one = Found(local_job.record, request_of)
    handle = one.attach()
    one.lifecycle.cancel()
    one.wait_for(handle, JobState.CANCELLED)
    one.hook.delete(handle)
    assert not local_job.path.exists()


def test_a_local_job_is_found_by_its_labels(local_job, request_of):
    """So ``airflow stepop jobs`` and ``sweep`` find it."""
    local_job.put("local_ended")
    one = Found(local_job.record, request_of)
    labels = {name: local_job.record["labels"][name] for name in ("dag_id", "task_id", "nonce")}
    (found,) = one.hook.find(labels)
    assert part_of(found.handle.to_json(), local_job.record["handle"]) == local_job.record["handle"]
    assert found.labels == local_job.record["labels"]


def test_a_local_job_that_has_ended_is_collected(local_job, request_of):
    local_job.put("local_ended")
    one = Found(local_job.record, request_of)
    assert one.collect(one.attach()) == RESULT


def test_a_trigger_of_before_waits_for_a_job_of_before(forms, places, local_job, request_of):
    local_job.start()
    row = placed(forms.read("triggers")[0], places)
    trigger = import_string(row["classpath"])(**deserialize(row["kwargs"]))

    async def first():
        local_job.let_end()
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(first())
    assert (event.payload["reason"], event.payload["job"]) == ("finished", local_job.record["name"])
    one = Found(local_job.record, request_of)
    assert one.collect(one.lifecycle.resume()) == RESULT


# -- Kubernetes


@pytest.fixture
def cluster(forms, monkeypatch):
    """Return a function that serves the stored objects, and makes a try that finds a stored record."""
    servers = []

    def serve(objects):
        found = StoredCluster(forms.read(f"kubernetes/{objects}"))
        servers.append(serving(found.answer))
        url = servers[-1].__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster_connection(url))
        return found, {"@SERVER@": url.removeprefix("http://")}

    yield serve
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("what", ["submitted", "intended"])
def test_a_kubernetes_job_is_attached_to_and_cancelled(forms, cluster, request_of, what):
    served, places = cluster("running")
    record = placed(forms.read(f"records/kubernetes_{what}"), places)
    one = Found(record, request_of)
    handle = one.attach()
    assert one.hook.status([handle])[handle].state is JobState.RUNNING
    one.lifecycle.cancel()
    job = served.objects[f"jobs/{record['name']}"]
    assert job["metadata"]["annotations"][CANCELLED] == "true"
    assert job["spec"]["activeDeadlineSeconds"] == 1


@pytest.mark.parametrize("objects", ["ended", "preserved"])
def test_a_kubernetes_job_that_has_ended_is_collected(forms, cluster, request_of, objects):
    """With its pod, or from the annotations that the earlier version has preserved."""
    served, places = cluster(objects)
    record = placed(forms.read("records/kubernetes_submitted"), places)
    one = Found(record, request_of)
    assert one.collect(one.attach()) == RESULT
    assert served.deleted == [f"jobs/{record['name']}"]


def test_a_kubernetes_job_is_found_by_its_labels(forms, cluster, request_of):
    _, places = cluster("running")
    record = placed(forms.read("records/kubernetes_submitted"), places)
    (found,) = Found(record, request_of).hook.find({"nonce": record["nonce"]})
    assert found.labels == record["labels"]
    assert part_of(found.handle.to_json(), record["handle"]) == record["handle"]


# -- SageMaker


@pytest.fixture
def account(forms, monkeypatch):
    """Return a function that serves a stored training job."""
    servers = []

    def serve(state):
        stored = forms.read(f"sagemaker/{state}")
        found = StoredTrainingJob(stored["job"], stored["tags"], stored["lines"])
        servers.append(serving(found.answer))
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", sagemaker_connection(servers[-1].__enter__()))
        return found

    yield serve
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("what", ["submitted", "intended"])
def test_a_sagemaker_job_is_attached_to_and_cancelled(forms, store, places, account, request_of, what):
    served = account("running")
    one = Found(placed(forms.read(f"records/sagemaker_{what}"), places), request_of)
    handle = one.attach()
    assert one.hook.status([handle])[handle].state is JobState.RUNNING
    one.lifecycle.cancel()
    assert "StopTrainingJob" in served.asked


def test_a_sagemaker_job_that_has_ended_is_collected(forms, store, places, account, request_of):
    served = account("ended")
    one = Found(placed(forms.read("records/sagemaker_submitted"), places), request_of)
    assert one.collect(one.attach()) == RESULT
    assert served.tags["Tags"][-1]["Key"] == "stepop-deleted"


def test_a_sagemaker_job_is_found_by_its_variables(forms, account, request_of):
    account("running")
    record = forms.read("records/sagemaker_submitted")
    (found,) = Found(record, request_of).hook.find({"nonce": record["nonce"]})
    assert found.labels == record["labels"]
    created_at = forms.read("sagemaker/running")["job"]["CreationTime"]
    assert datetime.fromtimestamp(found.created_at, UTC) == datetime.fromtimestamp(created_at, UTC)
    assert json.dumps(found.handle.detail["inputs"]).count(record["name"]) == 1
