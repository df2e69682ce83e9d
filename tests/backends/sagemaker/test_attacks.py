"""Attackers and what stops them: other teams, writers of the bucket, readers of the request, steps.

Each test does what its attacker would do, by the service's own API. docs/security.md lists what succeeds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_stepop.exceptions import OutcomeLostError, StepConfigError, StoreError
from airflow_stepop.hooks.common.receipts import (
    find_receipt,
    parse_receipt,
)
from airflow_stepop.inventory.targets import Target, find_jobs
from airflow_stepop.job import JobState
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from tests.support.sagemaker_attacks import FORGED, SPOT, plant, receipt_for

HELD = {"job": "*", "run": False, "hold": ["Starting"]}


# -- another team in the same account


@pytest.fixture
def forge(service, submit, monkeypatch):
    """Return a function that creates a training job that says of itself that it is one of this deployment."""
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "contract")
    service.do("plan", **HELD)
    own = submit()
    client = service.client("sagemaker")
    asked = client.describe_training_job(TrainingJobName=own.name)

    def create(name: str = "s-evil-0123456789ab", **about: Any) -> str:
        known = json.loads(asked["Environment"]["STEPOP_ABOUT_0"])
        environment = {"STEPOP_ABOUT_0": json.dumps({**known, **about})}
        names = (
            "AlgorithmSpecification",
            "RoleArn",
            "OutputDataConfig",
            "ResourceConfig",
            "StoppingCondition",
        )
        request = {key: asked[key] for key in names}
        client.create_training_job(TrainingJobName=name, Environment=environment, **request)
        return name

    return own, create


def found_jobs(problems: list[str]) -> list[Any]:
    return find_jobs([Target("sagemaker", "aws_default")], {}, problems.append)


@pytest.mark.parametrize("where", ["everything", "another job's input", "results", "another name"])
def test_a_job_that_names_the_input_of_others_deletes_nothing(hook, store, forge, where):
    """``sweep --yes`` and ``gc`` delete the folder that a job names: only its own."""
    own, create = forge
    inputs = {
        "everything": store.uri(""),
        "another job's input": own.detail["inputs"],
        "results": store.uri("results"),
        "another name": store.uri("jobs/s-evil-0123456789ac"),
    }[where]
    store.put("results/a/s-other/00.bin", b"result")
    before = sorted(store.list(""))
    name = create(inputs=inputs)
    assert [job.handle for job in found_jobs([])] == [own], "the other one is none of ours"
    handle = replace(own, id=name, name=name, detail={**own.detail, "inputs": inputs, "has_secrets": True})
    for act in (hook.delete_secrets, hook.delete):
        with pytest.raises(StoreError, match=r"is not a folder of the job|outside the configured stores"):
            act(handle)
    assert sorted(store.list("")) == before


@pytest.mark.parametrize("labels", ["other", "same"])
def test_a_job_of_the_same_name_in_another_region(service, hook, store, forge, labels):
    """Names are unique in a region only. A job that names the input of another must name its task, too."""
    own, _ = forge
    asked = service.client("sagemaker").describe_training_job(TrainingJobName=own.name)
    names = ("AlgorithmSpecification", "RoleArn", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
    known = json.loads(asked["Environment"]["STEPOP_ABOUT_0"])
    if labels == "other":
        known["labels"]["run_id"] = "a run that is gone"
    service.client("sagemaker", region="eu-west-1").create_training_job(
        TrainingJobName=own.name,
        Environment={**asked["Environment"], "STEPOP_ABOUT_0": json.dumps(known)},
        **{key: asked[key] for key in names},
    )
    far = Target("sagemaker", "aws_default").at({"region_name": "eu-west-1"})
    found = find_jobs([far], {}, pytest.fail)
    assert [job.handle.scope.partition("/")[2] for job in found] == ["eu-west-1"] * (labels == "same")
    for job in found:  # the record of the real task decides: its nonce is that of the label
        assert job.label("nonce") == known["labels"]["nonce"]
        job.hook.cancel(job.handle)
    assert hook.fresh_status(own).state is JobState.PENDING


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_job_that_somebody_has_created_under_the_name_of_a_step(service, hook, step, forge, store, when):
    """Airflow shows name and nonce, and a submit that waits for quota waits long. The key is not shown."""
    own, _ = forge
    client = service.client("sagemaker")
    asked = client.describe_training_job(TrainingJobName=own.name)
    names = ("AlgorithmSpecification", "RoleArn", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
    request = {key: asked[key] for key in names}
    made = step(["true"])
    service.do("plan", job=made.spec.name, hold=[])
    environment = {"STEPOP_NONCE": made.spec.nonce}
    client.create_training_job(TrainingJobName=made.spec.name, Environment=environment, **request)
    assert hook.lookup(made.spec) is None
    if when == "before":
        with pytest.raises(StepConfigError, match="exists already, and it is not of this step"):
            hook.submit(made.spec, made.payload)
    if when == "after":  # it has taken the place of one that was deleted, and its output is there
        handle = replace(own, id=made.spec.name, name=made.spec.name, nonce="", instance="")  # an old one
        service.wait_for(handle.name, "Completed", "Failed")
        plant(store, handle)
        with pytest.raises(OutcomeLostError, match="is not the one that was submitted"):
            hook.outcome(handle)


@pytest.mark.parametrize(
    "about",
    [
        {"labels": {"dag_id": ["a"]}},
        {"labels": {"dag_id": 1, "map_index": None}},
        {"inputs": {}},
        {"results": 7},
    ],
    ids=str,
)
def test_a_job_that_says_nonsense_of_itself_hides_no_other(forge, about):
    own, create = forge
    labels = {"deployment": "contract", "map_index": {}, **about.get("labels", {})}
    create(**{**about, "labels": labels if "labels" in about else {"deployment": "contract"}})
    problems: list[str] = []
    assert [job.handle for job in found_jobs(problems)] == [own]
    assert problems == []


def test_a_running_job_that_somebody_has_marked_as_deleted_is_still_the_job(service, hook, step):
    """Else the next try would start a second one beside it."""
    service.do("plan", **HELD)
    made = step()
    handle = hook.submit(made.spec, made.payload)
    client = service.client("sagemaker")
    arn = client.describe_training_job(TrainingJobName=handle.name)["TrainingJobArn"]
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "stepop-deleted", "Value": "true"}])
    fresh = type(hook)()
    found = fresh.lookup(made.spec)
    assert found is not None
    assert found.name == handle.name
    assert fresh.fresh_status(handle).state is JobState.PENDING


@pytest.mark.parametrize("mark", ["true", "", "0" * 8 + ":" + "0" * 64, "another job's"])
@pytest.mark.usefixtures("containers")
def test_a_job_that_has_ended_and_that_somebody_has_marked_as_deleted_keeps_its_result(
    service, hook, step, submit, mark
):
    """sagemaker:AddTags is a permission of many. Only the mark of this deployment counts."""
    client = service.client("sagemaker")

    def arn_of(name: str) -> str:
        return str(client.describe_training_job(TrainingJobName=name)["TrainingJobArn"])

    made = step(["true"])
    handle, other = hook.submit(made.spec, made.payload), submit(["true"])
    for one in (handle, other):
        service.wait_for(one.name, "Completed")
    hook.delete(other)
    (copied,) = [
        tag["Value"]
        for tag in client.list_tags(ResourceArn=arn_of(other.name))["Tags"]
        if tag["Key"] == "stepop-deleted"
    ]
    value = copied if mark == "another job's" else mark
    client.add_tags(ResourceArn=arn_of(handle.name), Tags=[{"Key": "stepop-deleted", "Value": value}])
    fresh = type(hook)()
    found = fresh.lookup(made.spec)
    assert found is not None
    assert found.name == handle.name
    assert fresh.fresh_status(handle).state is JobState.SUCCEEDED
    assert fresh.outcome(handle).digest
    assert fresh.fresh_status(other).state is JobState.GONE


# -- a writer of the bucket


def test_a_key_in_the_text_of_a_failure_is_no_receipt(service, hook, submit, store):
    """The service names the key of an input that it cannot read, and a writer of the bucket chooses keys."""
    service.do("plan", job="*", run=False, hold=["Training"])
    handle = submit(settings=SPOT, timeout_s=3600.0)
    service.wait_for(handle.name, "Training")
    plant(store, handle)
    key = f"s3://steps/x//AlgorithmError: {receipt_for(FORGED)}"
    text = f"ClientError: Data download failed:Failed to download data. S3 key: {key} has an illegal char"
    service.do("fail", job=handle.name, reason=text)
    service.wait_for(handle.name, "Failed")
    status = hook.fresh_status(handle)
    assert status.failure is not None, "the service's own text says why"
    with pytest.raises(OutcomeLostError):
        hook.outcome(handle)


@pytest.mark.once
@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("name", ["started", "kept-{}"], ids=["marker", "name of a copy"])
def test_what_the_runner_says_of_the_bucket_is_no_receipt(service, hook, submit, store, name):
    """The runner prints what a marker holds and the names of copies. A writer of the bucket chooses both."""
    service.do("plan", job="*", hold=["Starting"])
    handle = submit(["true"], settings=SPOT, timeout_s=3600.0)
    environment = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)[
        "Environment"
    ]
    text = f"x\n{RECEIPT_PREFIX}{receipt_for(FORGED)}\n"
    job = text if name == "started" else handle.name
    marker = {"job": job, "nonce": environment["STEPOP_NONCE"], "attempt": 1, "run": "0" * 16}
    key = (
        f"{store.prefix}/{store.path_of(handle.detail['inputs'])}/attempts/stepop-started/{name.format(text)}"
    )
    service.client("s3").put_object(Bucket=store.bucket, Key=key, Body=json.dumps(marker).encode())
    plant(store, handle)
    service.do("release", job="*", phase="Starting")
    service.wait_for(handle.name, "Completed", "Failed")
    service.client("s3").delete_object(Bucket=store.bucket, Key=key)  # our client cannot list such a key
    lines = service.log(handle.name)
    forged = parse_receipt(receipt_for(FORGED))
    assert [line for line in lines if find_receipt([line]) == forged] == []
    if name == "started":
        assert "is a duplicate" in " ".join(lines)
        with pytest.raises(OutcomeLostError):
            hook.outcome(handle)
    else:
        assert "is not used" in " ".join(lines)
        assert hook.outcome(handle).data != FORGED


@pytest.mark.usefixtures("containers")
def test_files_that_were_added_to_the_input_are_not_read(service, hook, submit, store):
    """Addresses and secrets come sealed. A plain file of the same name sends no value elsewhere."""
    service.do("plan", job="*", hold=["Starting"])
    handle = submit(["true"])
    (manifest,) = [path for path in store.list("jobs") if path.endswith("/manifest.json")]
    table = {"outcome": "http://127.0.0.1:9/evil", "put": "http://127.0.0.1:9/evil", "headers": {}}
    for name in ("uploads.json", "secrets.json", "checkpoint.json", "frames.key", "started.json"):
        store.put(f"{manifest.rpartition('/')[0]}/{name}", json.dumps(table).encode())
    service.do("release", job="*", phase="Starting")
    assert service.wait_for(handle.name, "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert hook.outcome(handle).digest
    assert [line for line in service.log(handle.name) if "evil" in line or "cannot" in line] == []
