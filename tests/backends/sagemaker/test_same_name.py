"""Somebody who may delete and create training jobs puts another one where ours was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.job import JobState
from airflow_stepop.runner.protocol import RECEIPT_PREFIX

FORGED = b'{"forged": true}'
REQUEST = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "Environment",
)


@pytest.fixture
def replaced(service, submit, store):
    """Return a function that runs a job, deletes it, and runs one of the same name that forges a result."""

    def replace_job(look=lambda nonce: None, **changes):
        handle, client = submit(["true"]), service.client("sagemaker")
        asked = service.wait_for(handle.name, "Completed")
        look(asked["Environment"]["STEPOP_NONCE"])
        client.delete_training_job(TrainingJobName=handle.name)
        receipt = {"protocol": 1, "digest": hashlib.sha256(FORGED).hexdigest(), "size": len(FORGED)}
        script = f"echo '{RECEIPT_PREFIX}{json.dumps(receipt)}'"
        request = {name: asked[name] for name in REQUEST} | changes
        algorithm = {**asked["AlgorithmSpecification"], "ContainerEntrypoint": ["sh", "-c", script]}
        del algorithm["ContainerArguments"]
        request["AlgorithmSpecification"] = algorithm
        client.create_training_job(TrainingJobName=handle.name, **request)
        service.wait_for(handle.name, "Completed")
        store.put(f"{store.path_of(handle.detail['results'])}/output/model/stepop/outcome.json", FORGED)
        return replace(handle, nonce=asked["Environment"]["STEPOP_NONCE"])

    return replace_job


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("environment", ["copied", "other"])
def test_its_result_is_not_believed(hook, replaced, environment):
    """The variables with the nonce can be copied. The time of creation is set by the service."""
    handle = replaced(**({} if environment == "copied" else {"Environment": {"A": "b"}}))
    fresh = type(hook)()
    assert fresh.status([handle])[handle].state is JobState.GONE
    with pytest.raises(OutcomeLostError, match="the job is gone"):
        fresh.outcome(handle)
    with pytest.raises(OutcomeLostError, match="is not the one that was submitted"):
        fresh.outcome(replace(handle, nonce="", instance=""))  # its request lacks our key, too


@pytest.mark.usefixtures("containers")
def test_what_is_known_of_the_first_job_is_not_said_of_the_second(hook, replaced):
    """``find`` remembers what a job says of itself, by the name and the time of its creation."""
    before = []
    handle = replaced(lambda nonce: before.extend(hook.find({"nonce": nonce})), Environment={"A": "b"})
    assert [job.handle for job in before] == [handle]
    assert before[0].handle.instance == handle.instance
    assert list(hook.find({"nonce": handle.nonce})) == []
