"""What the emulator of SageMaker answers to requests, good and bad, beside recordings of the real service."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.emulators.sagemaker.model import output_shape
from tests.emulators.sagemaker.validation import check_types, constraint_failures
from tests.support.waiting import wait_until
from tests.unit.emulators.requests import refusal

RECORDED = Path(__file__).with_name("recorded")


def recorded(name):
    data = json.loads((RECORDED / f"{name}.json").read_text())["data"]
    data.pop("ResponseMetadata")
    return data


def kind(value):
    """Return what kind of JSON a value is; the recordings write a time as an object of its own."""
    if isinstance(value, dict) and "__class__" not in value:
        return {key: kind(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kind(item) for item in value]
    return "number" if isinstance(value, dict | int | float) else type(value).__name__


def covers(answer, recording, path="answer"):
    """Return where an answer lacks a key of the recording, or has another type there."""
    if isinstance(recording, dict):
        if not isinstance(answer, dict):
            return [path]
        return [hit for key in recording for hit in covers(answer.get(key), recording[key], f"{path}.{key}")]
    if isinstance(recording, list):
        if not isinstance(answer, list) or len(answer) < len(recording):
            return [path]
        pairs = enumerate(zip(answer, recording, strict=False))
        return [hit for number, pair in pairs for hit in covers(*pair, f"{path}[{number}]")]
    return [] if answer == recording else [path]


def raw(service, operation, body, key="tests", **headers):
    """Send a request as it is, and return status, body and headers."""
    own = {
        "X-Amz-Target": f"SageMaker.{operation}",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/sagemaker/aws4_request",
        **headers,
    }
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(service.url, data=data, headers={k: v for k, v in own.items() if v})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


@pytest.fixture
def as_recorded(jobs):
    """A job with the recorded request, held before it begins."""
    image = "382416733822.dkr.ecr.us-east-1.amazonaws.com/kmeans"
    jobs.service.do("repository", name=image, tags=["1", "latest"])
    jobs.service.do("role", arn=recorded("describe_starting")["RoleArn"])
    jobs.put("data/.amazon.manifest", "[]")
    request = recorded("describe_starting")
    for name in (
        "CreationTime",
        "LastModifiedTime",
        "TrainingJobStatus",
        "SecondaryStatus",
        "TrainingJobArn",
    ):
        request.pop(name)
    request["OutputDataConfig"]["S3OutputPath"] = f"{jobs.url}/out"
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = f"{jobs.url}/data/.amazon.manifest"
    del request["OutputDataConfig"]["KmsKeyId"]
    del request["InputDataConfig"][0]["CompressionType"]
    del request["InputDataConfig"][0]["RecordWrapperType"]
    jobs.service.do("plan", job="*", hold=["Starting", "Stop"], run=False)
    return request


def test_a_job_that_has_not_begun_is_described_as_recorded(jobs, as_recorded):
    """Defaults are echoed; times are absent; StopTrainingJob leaves SecondaryStatus as it was."""
    jobs.client.create_training_job(**as_recorded)
    name = as_recorded["TrainingJobName"]
    _, body, _ = raw(jobs.service, "DescribeTrainingJob", {"TrainingJobName": name})
    first = json.loads(body)
    assert covers(kind(first), kind(recorded("describe_starting"))) == []
    assert not first.keys() & {
        "TrainingStartTime",
        "TrainingEndTime",
        "TrainingTimeInSeconds",
        "FailureReason",
    }
    for key in ("TrainingJobStatus", "SecondaryStatus", "ResourceConfig", "HyperParameters"):
        assert first[key] == recorded("describe_starting")[key]
    status, body, headers = raw(jobs.service, "StopTrainingJob", {"TrainingJobName": name})
    assert (status, body) == (200, b"")
    assert headers["content-type"] == "application/x-amz-json-1.1"
    _, body, _ = raw(jobs.service, "DescribeTrainingJob", {"TrainingJobName": name})
    second = json.loads(body)
    assert covers(kind(second), kind(recorded("describe_stopping"))) == []
    assert (second["TrainingJobStatus"], second["SecondaryStatus"]) == ("Stopping", "Starting")
    assert second["LastModifiedTime"] > first["LastModifiedTime"]
    jobs.service.do("release", job=name, phase="Stop")
    last = jobs.service.wait_for(name, "Stopped")
    assert not last.keys() & {"TrainingStartTime", "TrainingEndTime", "BillableTimeInSeconds"}


def test_a_failed_job_is_described_and_listed_as_recorded(jobs):
    """An end has its times, and LastModifiedTime moves once more after it."""
    jobs.service.do("plan", job="*", run=False, exit_code=1)
    jobs.service.do("settings", touch_after_end_s=1000.0)
    jobs.put("data/x", "1")
    request = {"InputDataConfig": [jobs.channel("train", "data")], "HyperParameters": {"k": "1"}}
    parameters = {"feature_dim": "784", "mini_batch_size": "500", "k": "10"}
    name = jobs.create(**{**request, "HyperParameters": parameters})
    jobs.service.wait_for(name, "Failed")
    _, body, _ = raw(jobs.service, "DescribeTrainingJob", {"TrainingJobName": name})
    described = json.loads(body)
    assert covers(kind(described), kind(recorded("describe_failed"))) == []
    jobs.service.do("settings", touch_after_end_s=0.05)
    wait_until(
        lambda: jobs.client.describe_training_job(TrainingJobName=name)["LastModifiedTime"],
        "LastModifiedTime to move",
        holds=lambda at: at.timestamp() > described["LastModifiedTime"],
    )
    query = {"NameContains": name, "MaxResults": 1}
    listed = json.loads(raw(jobs.service, "ListTrainingJobs", query)[1])
    expected = kind(recorded("list"))
    del expected["NextToken"]
    assert covers(kind(listed), expected) == []
    tags = raw(jobs.service, "ListTags", {"ResourceArn": described["TrainingJobArn"]})[1]
    assert json.loads(tags) == recorded("list_tags")


def test_every_answer_fits_the_model(jobs):
    """No answer has a member, a type or a value that the vendor's model does not have."""
    jobs.service.do("plan", job="*", run=False, pending=True)
    name = jobs.create(Tags=[{"Key": "who", "Value": "me"}])
    jobs.service.wait_for(name, "Completed")
    calls = {
        "DescribeTrainingJob": {"TrainingJobName": name},
        "ListTrainingJobs": {},
        "ListTags": {
            "ResourceArn": jobs.client.describe_training_job(TrainingJobName=name)["TrainingJobArn"]
        },
    }
    for operation, body in calls.items():
        answer = json.loads(raw(jobs.service, operation, body)[1])
        shape = output_shape("sagemaker", operation)
        check_types(shape, answer)
        failures = list(constraint_failures(shape, answer, ""))
        # A recorded job without input has an empty list, which the model does not allow
        assert [text for text in failures if not text.startswith("Value '[]' at 'inputDataConfig'")] == []


def test_pending_is_a_phase_and_its_message_changes_in_place(jobs):
    jobs.service.do("plan", job="*", run=False, pending=True, hold=["Pending"])
    name = jobs.create()
    described = jobs.service.wait_for(name, "Pending")
    assert described["SecondaryStatusTransitions"][-1]["StatusMessage"] == "Training job waiting for capacity"
    jobs.service.do("release", job=name, phase="Pending")
    described = jobs.service.wait_for(name, "Completed")
    entries = [(e["Status"], e["StatusMessage"]) for e in described["SecondaryStatusTransitions"]]
    assert entries == [
        ("Starting", "Launching requested ML instances"),
        ("Pending", "Training job waiting for capacity"),
        ("Starting", "Preparing the instances for training"),
        ("Downloading", "Downloading the training image"),
        ("Training", "Training image download completed. Training in progress."),
        ("Uploading", "Uploading generated training model"),
        ("Completed", "Training job completed"),
    ]


ENVIRONMENT = "Map value must satisfy constraint: [Member must have length less than or equal to 512, "
INVALID = [
    (
        {"TrainingJobName": "a_b"},
        "Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must sat",
    ),
    ({"TrainingJobName": "a" * 64}, "Member must have length less than or equal to 63"),
    ({"TrainingJobName": "name\n"}, "Member must satisfy regular expression pattern: "),
    ({"Environment": {"A": "v" * 513}}, ENVIRONMENT),
    (
        {"Environment": {"A-B": "v"}},
        "Map keys must satisfy constraint: [Member must have length less than or",
    ),
    ({"RoleArn": "arn:aws:iam::1:role/too-short-account"}, "at 'roleArn' failed"),
    ({"Tags": [{"Key": "a", "Value": "v!"}]}, "Value 'v!' at 'tags.1.member.value' failed"),
    ({"Tags": [{"Key": "a", "Value": "v" * 257}]}, "Member must have length less than or equal to 256"),
    ({"HyperParameters": {"a": "two\nlines"}}, "Map value must satisfy constraint: "),
    (
        {"InputDataConfig": []},
        "at 'inputDataConfig' failed to satisfy constraint: Member must have length gre",
    ),
]


@pytest.mark.parametrize(("changes", "text"), INVALID)
def test_a_violated_constraint_is_told_as_aws_tells_it(jobs, changes, text):
    """Maximum, pattern, charset: what botocore itself does not check."""
    body = jobs.request(**changes)
    status, answer, _ = raw(jobs.service, "CreateTrainingJob", body)
    told = json.loads(answer)
    assert (status, told["__type"]) == (400, "ValidationException")
    assert re.match(r"[12] validation errors? detected: Value '", told["message"])
    assert text in told["message"]


def test_container_arguments_have_a_length_and_no_newlines(jobs):
    algorithm = {"TrainingImage": jobs.service.image, "TrainingInputMode": "File"}
    for argument in ("a" * 257, "a\nb", "a\u2028b"):
        code, text = jobs.refused(AlgorithmSpecification={**algorithm, "ContainerArguments": [argument]})
        assert code == "ValidationException"
        assert "at 'algorithmSpecification.containerArguments' failed" in text


def test_all_failures_are_told_together(jobs):
    resources = {"InstanceType": "ml.m5.tiny", "InstanceCount": 1, "VolumeSizeInGB": 30}
    body = jobs.request(TrainingJobName="-", ResourceConfig=resources)
    del body["RoleArn"]
    text = json.loads(raw(jobs.service, "CreateTrainingJob", body)[1])["message"]
    assert text.startswith("3 validation errors detected: ")
    assert "Value null at 'roleArn' failed to satisfy constraint: Member must not be null" in text
    assert "Value 'ml.m5.tiny' at 'resourceConfig.instanceType' failed to satisfy" in text
    assert "Member must satisfy enum value set: [" in text


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("CreateTrainingJob", {"TrainingJobName": 1}, "SerializationException"),
        ("CreateTrainingJob", {"Unknown": "x"}, "SerializationException"),
        ("CreateTrainingJob", {"Environment": []}, "SerializationException"),
        ("ListTrainingJobs", {"MaxResults": "10"}, "SerializationException"),
        ("ListTrainingJobs", {"MaxResults": True}, "SerializationException"),
        ("ListTrainingJobs", b"{", "SerializationException"),
        ("ListTrainingJobs", {"MaxResults": 101}, "ValidationException"),
        ("ListTrainingJobs", {"NextToken": "x"}, "ValidationException"),
        ("DescribeTrainingJob", {"TrainingJobName": "nobody"}, "ValidationException"),
        ("StopTrainingJob", {"TrainingJobName": "nobody"}, "ValidationException"),
        ("CreateEverything", {}, "UnknownOperationException"),
    ],
)
def test_other_bad_requests(service, operation, body, code):
    status, answer, _ = raw(service, operation, body)
    assert (status, json.loads(answer)["__type"]) == (400, code)


def test_what_is_not_emulated_cannot_be_taken_for_the_service(service):
    for operation in ("Search", "CreateProcessingJob"):
        status, answer, _ = raw(service, operation, {})
        assert (status, json.loads(answer)["__type"]) == (501, "NotEmulated")


CPU = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30}
SPOT = {"EnableManagedSpotTraining": True}
WAIT = {"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 200}
PREFERENCES = [{"InstanceType": "ml.g5.xlarge", "InstanceCount": 1}]
CONTRADICTIONS = [
    ({"StoppingCondition": WAIT}, "It is only supported when EnableManagedSpotTraining is set to true"),
    ({**SPOT}, "Invalid MaxWaitTimeInSeconds. It must be present"),
    (
        {**SPOT, "StoppingCondition": {**WAIT, "MaxRuntimeInSeconds": 201}},
        "greater than or equal to MaxRuntime",
    ),
    ({"StoppingCondition": {"MaxRuntimeInSeconds": 2_419_201}}, "less than or equal to 2419200"),
    (
        {**SPOT, "StoppingCondition": WAIT, "ResourceConfig": {**CPU, "KeepAlivePeriodInSeconds": 60}},
        "KeepAlive",
    ),
    ({"ResourceConfig": {**CPU, "InstancePreferences": PREFERENCES}}, "exactly one of InstanceType"),
    (
        {**SPOT, "StoppingCondition": WAIT, "ResourceConfig": {"InstancePreferences": PREFERENCES}},
        "InstancePreferences is not supported",
    ),
    ({"ResourceConfig": {"InstancePreferences": PREFERENCES * 2}}, "appear only once"),
    ({"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1}}, "VolumeSizeInGB"),
    ({"ResourceConfig": {**CPU, "InstanceType": "ml.g5.xlarge", "VolumeKmsKeyId": "k"}}, "VolumeKmsKeyId"),
    ({"Tags": [{"Key": "a", "Value": "1"}] * 2}, "Duplicate tag keys"),
    ({"OutputDataConfig": {"S3OutputPath": "https://steps/out"}}, "Invalid S3 URL"),
]


@pytest.mark.parametrize(("changes", "text"), CONTRADICTIONS)
def test_contradictions_are_refused(jobs, changes, text):
    code, message = jobs.refused(**changes)
    assert code == "ValidationException"
    assert text in message


def test_the_world_is_looked_at_before_the_answer(jobs):
    """Role, image, input and output: what the service checks before it answers."""
    algorithm = {"TrainingInputMode": "File"}
    images = {
        "python:3.12": "Invalid training image. Please provide a valid Amazon Elastic Container",
        "ghcr.io/me/steps:1": "TrainingImageConfig with TrainingRepositoryAccessMode set to VPC must be",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/none:1": (
            "Cannot find repository: none in registry ID: 123456789012 Please check if your ECR repository"
        ),
    }
    for image, text in images.items():
        assert text in jobs.refused(AlgorithmSpecification={**algorithm, "TrainingImage": image})[1]
    role = "arn:aws:iam::123456789012:role/nobody"
    assert jobs.refused(RoleArn=role)[1].startswith(f"Could not assume role {role}. Please ensure that")
    nothing = [jobs.channel("train", "nothing/")]
    assert 'No S3 objects found under S3 URL "s3://' in jobs.refused(InputDataConfig=nothing)[1]
    elsewhere = {"S3OutputPath": "s3://no-such-bucket-here/out"}
    assert "Access denied to OutputDataConfig S3 bucket" in jobs.refused(OutputDataConfig=elsewhere)[1]


def test_a_missing_tag_fails_the_job_or_the_request(jobs):
    image = jobs.service.image.replace(":1", ":none")
    algorithm = {"TrainingInputMode": "File", "TrainingImage": image}
    name = jobs.create(AlgorithmSpecification=algorithm)
    described = jobs.service.wait_for(name, "Failed")
    assert f"manifest for {image} not found: manifest unknown" in described["FailureReason"]
    jobs.service.do("settings", tag_missing="sync")
    assert "Cannot find the requested image:" in jobs.refused(AlgorithmSpecification=algorithm)[1]


def test_a_name_is_taken_until_the_job_is_deleted(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Training"])
    name = jobs.create()
    code, text = jobs.refused(TrainingJobName=name)
    assert code == "ResourceInUse"
    assert text.startswith(
        "Training job names must be unique within an AWS account and region, and a training"
    )
    with pytest.raises(jobs.client.exceptions.ResourceInUse):
        jobs.client.delete_training_job(TrainingJobName=name)
    jobs.service.do("release", job=name, phase="Training")
    jobs.service.wait_for(name, "Completed")
    text = "The request was rejected because the training job is in status Completed."
    assert refusal(jobs.client, "stop_training_job", TrainingJobName=name) == ("ValidationException", text)
    jobs.client.delete_training_job(TrainingJobName=name)
    unknown = ("ValidationException", "Requested resource not found.")
    assert refusal(jobs.client, "stop_training_job", TrainingJobName=name) == unknown
    assert jobs.create(TrainingJobName=name) == name


def test_regions_are_separate(jobs):
    jobs.service.do("plan", job="*", run=False)
    name = jobs.create()
    other = jobs.service.client("sagemaker", region="eu-west-1")
    assert other.list_training_jobs()["TrainingJobSummaries"] == []
    arn = other.create_training_job(**jobs.request(TrainingJobName=name))["TrainingJobArn"]
    assert arn == f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{name}"
