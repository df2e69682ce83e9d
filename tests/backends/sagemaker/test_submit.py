"""Submits against faults of the service: one job at most, and every refusal says what to do."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import QuotaError, StepConfigError
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobState

pytestmark = pytest.mark.usefixtures("store")
HELD = {"job": "*", "run": False, "hold": ["Starting"]}


def test_throttling_of_create_is_waited_for_without_a_worker(hook, service, step):
    service.do("fault", kind="throttle", operation="CreateTrainingJob", count=1)
    made = step()
    with pytest.raises(QuotaError, match=r"Rate exceeded.*What to do: run fewer steps at once"):
        hook.submit(made.spec, made.payload)
    assert service.report()["jobs"] == {}
    service.do("plan", **HELD)
    assert hook.submit(made.spec, made.payload).name == made.spec.name


def test_a_full_quota_has_its_name_and_number(hook, service, step):
    service.do("settings", quotas={"ml.m5.large": 0})
    made = step(settings={"instance_type": "ml.m5.large"})
    with pytest.raises(QuotaError) as caught:
        hook.submit(made.spec, made.payload)
    assert "'ml.m5.large for training job usage' is 0 Instances" in str(caught.value)
    assert "ask AWS for a higher quota (Service Quotas" in str(caught.value)


def test_tags_that_the_caller_must_not_set(hook, service, step, capsys):
    service.do("plan", **HELD)
    service.deny("sagemaker:AddTags")
    made = step()
    handle = hook.submit(made.spec, made.payload)
    assert "Allow sagemaker:AddTags" in capsys.readouterr().out
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{handle.name}"
    assert service.client("sagemaker").list_tags(ResourceArn=arn)["Tags"] == []
    assert hook.status([handle])[handle].state is JobState.PENDING


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["lost", "internal", "unavailable"])
def test_an_unclear_answer_makes_no_second_job(hook, service, step, kind, after):
    service.do("plan", **HELD)
    service.do("fault", kind=kind, operation="CreateTrainingJob", after=after, count=1)
    made = step()
    if after:
        hook.submit(made.spec, made.payload)
    else:
        with pytest.raises(Exception, match=r"Connection|internal error|temporary failure") as caught:
            hook.submit(made.spec, made.payload)
        assert hook.is_transient(caught.value)
        assert not service.report()["jobs"]
        hook.submit(made.spec, made.payload)
    assert list(service.report()["jobs"]) == [made.spec.name]
    assert service.report()["answers"].get("CreateTrainingJob 200", 0) <= 1


def test_a_lost_answer_and_a_lost_look(hook, service, step):
    """The worker knows nothing; its next try finds the job."""
    service.do("plan", **HELD)
    service.do("fault", kind="lost", operation="CreateTrainingJob", after=True, count=1)
    service.do("fault", kind="internal", operation="DescribeTrainingJob", count=9)
    made = step()
    with pytest.raises(Exception, match="internal error") as caught:
        hook.submit(made.spec, made.payload)
    assert hook.is_transient(caught.value)
    service.do("clear_faults")
    handle = hook.submit(made.spec, made.payload)
    assert hook.lookup(made.spec).name == handle.name
    assert list(service.report()["jobs"]) == [made.spec.name]


def test_a_new_job_that_the_service_does_not_find_yet(hook, service, step):
    """Whoever looks for the job after the submit finds it: a job that is not found counts as lost."""
    service.do("plan", **HELD)
    service.do("settings", describe_misses=4)
    made = step()
    handle = hook.submit(made.spec, made.payload)
    assert SageMakerStepHook().status([handle])[handle].state is JobState.PENDING


def test_a_taken_name_that_the_service_does_not_find_yet(hook, service, step):
    """The first create had an unclear answer, and no job was to be found. Its name is taken: it is there."""
    service.do("plan", **HELD)
    service.do("settings", describe_misses=4)
    service.do("fault", kind="internal", operation="CreateTrainingJob", after=True, count=1)
    made = step()
    with pytest.raises(Exception, match="internal error") as caught:
        hook.submit(made.spec, made.payload)
    assert hook.is_transient(caught.value)
    handle = hook.submit(made.spec, made.payload)
    assert hook.lookup(made.spec).name == handle.name
    assert list(service.report()["jobs"]) == [made.spec.name]


def test_a_job_of_another_owner(hook, service, step):
    service.do("plan", **HELD)
    made, other = step(), step()
    hook.submit(replace(made.spec, name=other.spec.name), made.payload)
    with pytest.raises(StepConfigError, match=r"exists already, and it is not of this step"):
        hook.submit(other.spec, other.payload)


def test_two_workers_with_different_pickles(hook, service, step, store):
    """The service takes one of the requests. Its input is whole, and both workers know the job."""
    service.do("plan", **HELD)
    made = [step(["echo", "one"]), step(["echo", "two"])]
    specs = [replace(made[0].spec, digest=one.spec.digest) for one in made]
    hooks = [SageMakerStepHook(), SageMakerStepHook()]
    with ThreadPoolExecutor() as pool:
        handles = list(
            pool.map(lambda one: one[0].submit(one[1], one[2].payload), zip(hooks, specs, made, strict=True))
        )
    assert handles[0] == handles[1]
    assert list(service.report()["jobs"]) == [specs[0].name]
    job = service.client("sagemaker").describe_training_job(TrainingJobName=specs[0].name)
    address = job["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
    digest = next(one.spec.digest for one in made if one.spec.digest in " ".join(arguments(job)))
    key = address.partition("//")[2].partition("/")[2] + "manifest.json"
    body = service.client("s3").get_object(Bucket=service.s3.bucket, Key=key)["Body"].read()
    assert hashlib.sha256(body).hexdigest() == digest
    for handle in handles:
        hook.delete(handle)
    assert not [name for name in store.list("jobs")]


def arguments(job):
    algorithm = job["AlgorithmSpecification"]
    return [*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]]


KILLED_AT = """
import os, pickle, signal, sys
from airflow_stepop.hooks.sagemaker import hook as module
from airflow_stepop.hooks.sagemaker import service
step = pickle.load(open(sys.argv[1], "rb"))
point = sys.argv[2]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
# The process ends at a point of its life; nothing of ours is replaced by something that answers
if point == "before":
    module.stage = die
elif point == "staged":
    service.TrainingJobs.create = die
elif point == "created":
    real = service.TrainingJobs.create
    service.TrainingJobs.create = lambda self, body: (real(self, body), die())
module.SageMakerStepHook().submit(step.spec, step.payload)
"""


@pytest.mark.parametrize("point", ["before", "staged", "created"])
def test_a_worker_that_is_killed(hook, service, step, tmp_path, point):
    service.do("plan", **HELD)
    made = step(["true"], secrets={"TOKEN": "hush"})
    stored = tmp_path / "step"
    stored.write_bytes(pickle.dumps(made))
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(stored), point], env={**os.environ}, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert len(service.report()["jobs"]) == (point == "created")
    assert (hook.lookup(made.spec) is not None) == (point == "created")
    handle = hook.submit(made.spec, made.payload)
    assert list(service.report()["jobs"]) == [handle.name]


def test_a_token_that_expires_in_the_middle(hook, service, step):
    """Nothing is known of the job then. The next try takes the credentials anew."""
    service.do("plan", **HELD)
    made = step()
    handle = hook.submit(made.spec, made.payload)
    service.do("expire")
    with pytest.raises(Exception, match="expired") as caught:
        hook.status([handle])
    assert hook.is_transient(caught.value)
    service.do("expire", expired=False)
    assert hook.status([handle])[handle].state is JobState.PENDING


REFUSALS = {
    "no repository": (
        {"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/nothing:1"},
        r"Cannot find repository: nothing.*What to do: check image=.*ecr:BatchGetImage",
    ),
    "no trust": (
        {"settings": {"role": "arn:aws:iam::123456789012:role/alone"}},
        r"Could not assume role.*What to do: let the role trust SageMaker",
    ),
    "no data": (
        {"settings": {"input_data_s3_uri": "s3://BUCKET/nothing/here/"}},
        r"No S3 objects found.*What to do: check settings.input_data_s3_uri",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_to_do(hook, service, step, case):
    options, text = REFUSALS[case]
    service.do("role", arn="arn:aws:iam::123456789012:role/alone", trusts=[])
    settings = {
        name: value.replace("BUCKET", service.s3.bucket)
        for name, value in options.get("settings", {}).items()
    }
    made = step(**{**options, "settings": settings})
    with pytest.raises(StepConfigError, match=text):
        hook.submit(made.spec, made.payload)
    assert not service.report()["jobs"]


def test_endpoints_have_another_place(service, step, connect):
    connect(stepop={"endpoints": {"sagemaker": "http://here"}})
    with pytest.raises(StepConfigError, match=r'"service_config": \{"sagemaker"'):
        SageMakerStepHook().render(step().spec)


def test_a_role_by_its_name(hook, service, step):
    service.do("plan", **HELD)
    made = step(settings={"role": "stepop-job"})
    handle = hook.submit(made.spec, made.payload)
    described = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    assert described["RoleArn"] == service.role


def test_the_region(service, step, connect, monkeypatch):
    """Of the settings, else of the connection, else of the environment."""
    service.do("plan", **HELD)
    made = step(settings={"region_name": "eu-west-1"})
    assert SageMakerStepHook().submit(made.spec, made.payload).scope == "123456789012/eu-west-1"
    connect(region_name=None)
    with pytest.raises(StepConfigError, match="no AWS region: set region_name"):
        SageMakerStepHook().render(step().spec)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert SageMakerStepHook().scope() == "123456789012/eu-west-3"


def test_what_the_service_would_refuse_is_refused_before_anything_is_written(hook, service, step, store):
    made = step(settings={"overrides": {"AlgorithmSpecification": {"TrainingImageConfig": {"Mode": "Vpc"}}}})
    with pytest.raises(StepConfigError, match=r"TrainingImageConfig\.Mode is no field"):
        hook.submit(made.spec, made.payload)
    assert not list(store.list(""))


@pytest.mark.parametrize("is_isolated", [True, False])
def test_network_isolation_without_packages(hook, service, step, store, is_isolated):
    service.do("plan", **HELD)
    made = step(requirements=["attrs"], settings={"enable_network_isolation": is_isolated})
    if not is_isolated:
        hook.submit(made.spec, made.payload)
        return
    with pytest.raises(StepConfigError, match=r"leaves the step no network, but requirements= installs"):
        hook.submit(made.spec, made.payload)
    assert not list(store.list(""))
