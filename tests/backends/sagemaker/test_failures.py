"""The texts of the real service, each with its category and with what to do; hostile names change nothing.

``failure_texts.json`` has the texts and where each one was reported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_stepop.failure import Category
from airflow_stepop.hooks.common.receipts import Receipt
from airflow_stepop.hooks.sagemaker.failures import classified, failure_of, receipt_in, reported_in
from airflow_stepop.runner.protocol import EXIT_REFUSED

C = Category
RECORDED = [
    text for _, text, _ in json.loads(Path(__file__).with_name("failure_texts.json").read_text())["data"]
]
DOWNLOAD = "ClientError: Data download failed:"
RECEIPT = '{"protocol": 1, "digest": "' + "a" * 64 + '", "size": 12}'

# beginning of a text -> category, what the hint names. The recorded ones are completed from the file
CASES: list[tuple[str, Category, str]] = [
    ("The account-level service limit", C.QUOTA, "'ml.p3.2xlarge for training job usage'"),
    ("Cannot find repository:", C.IMAGE_PULL, "ecr:BatchGetImage"),
    ("Cannot find the requested image:", C.IMAGE_PULL, "write another tag"),
    ("Invalid MaxWaitTimeInSeconds.", C.BAD_CONFIG, "settings.use_spot_instances=True"),
    ("Could not assume role", C.DENIED, '"Principal": {"Service": "sagemaker.amazonaws.com"}'),
    ("ClientError: TrainingHostAgent Initialization failed:", C.DENIED, '"Action": "sts:AssumeRole"}'),
    ("ClientError: SageMaker was unable to assume the role", C.DENIED, "sts:AssumeRole"),
    ("ClientError: Cannot pull algorithm container.", C.IMAGE_PULL, "settings.volume_size_in_gb"),
    ("...API error (404): manifest for", C.IMAGE_PULL, "write another tag"),
    ("ClientError: Artifact upload failed:API error (400): OCI runtime", C.BAD_CONFIG, "settings.python"),
    ("ClientError: Artifact upload failed:Please ensure that the subnet's", C.BAD_CONFIG, "gateway endpoint"),
    (f"{DOWNLOAD}Unable to download object s3://B/K (AccessDenied", C.DENIED, "s3:GetObject"),
    (f"{DOWNLOAD}Failed to download data. S3 key:", C.BAD_CONFIG, "settings.input_data_s3_uri"),
    ("ClientError: Unable to read input data.", C.BAD_CONFIG, "the service says what is wrong"),
]
# not in the file of recordings; from public reports and production code
MORE: list[tuple[str, Category, str]] = [
    ("CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML "
     "instance type.", C.NO_CAPACITY, "settings.instance_type"),
    ("InternalServerError: We encountered an internal error. Please try again.", C.INFRA,
     "settings.max_retry_attempts"),
    ("ClientError: Please use an instance type with more memory, or reduce the size of job data processed on "
     "an instance.", C.OOM, "raise memory of resource_settings"),
    ("ClientError: Artifact upload failed:ClientError: Out of Memory. Please use a larger instance", C.OOM,
     "settings.instance_type"),
    ('No S3 objects found under S3 URL "s3://b/k" given in input data source. Please ensure that the bucket '
     "exists in the selected region", C.BAD_CONFIG, "settings.input_data_s3_uri"),
    ("Invalid training image. Please provide a valid Amazon Elastic Container Registry path of the image to "
     "run.", C.BAD_CONFIG, "dkr.ecr"),
    ("TrainingImageConfig with TrainingRepositoryAccessMode set to VPC must be provided when using a "
     "training image from a private Docker registry.", C.BAD_CONFIG, '"TrainingRepositoryAccessMode": "Vpc"'),
    ("Unauthorized to List objects under S3 URL s3://b/k.", C.DENIED, "s3:ListBucket"),
    ("Access denied to OutputDataConfig S3 bucket.", C.DENIED, "s3:PutObject"),
    ("Access denied for repository: r in registry ID: 1", C.IMAGE_PULL, "ecr:GetAuthorizationToken"),
    ("ThrottlingException: Rate exceeded", C.QUOTA, "run fewer steps"),
    ("Rate exceeded", C.QUOTA, "run fewer steps"),
    ("ClientError: Artifact upload failed:API error (400): exec /usr/bin/python3: exec format error",
     C.BAD_CONFIG, "linux/amd64"),
    ("ClientError: Data download failed:write /opt/ml/x: No space left on device", C.BAD_CONFIG,
     "volume_size_in_gb"),
    ("ClientError: Data download failed:Something that nobody has seen", C.BAD_CONFIG,
     "settings.input_data_s3_uri"),
    ("User: arn:aws:sts::1:assumed-role/w/x is not authorized to perform: iam:PassRole on resource: "
     "arn:aws:iam::1:role/R because no identity-based policy allows the iam:PassRole action", C.DENIED,
     "allow iam:PassRole on arn:aws:iam::1:role/R"),
    ("User: arn:aws:sts::1:assumed-role/w/x is not authorized to perform: sagemaker:AddTags", C.DENIED,
     "allow sagemaker:AddTags"),
]  # fmt: skip


def recorded(beginning: str) -> str:
    (text,) = (text for text in RECORDED if text.startswith(beginning))
    return text


@pytest.mark.parametrize(("text", "category", "hint"), [(recorded(one[0]), *one[1:]) for one in CASES] + MORE)
def test_each_text_has_its_category_and_what_to_do(text: str, category: Category, hint: str) -> None:
    failure = classified(text)
    assert failure is not None
    assert (failure.category, hint in failure.hint) == (category, True), failure
    assert "{" not in failure.summary.replace(text, "")


def test_every_recorded_text_is_a_case() -> None:
    """The messages of the secondary status are no failures, and those with exit codes have their own test."""
    known = [beginning for beginning, _, _ in CASES] + ["AlgorithmError", "Starting - "]
    assert [text for text in RECORDED if not text.startswith(tuple(known))] == []


def test_the_quota_is_named_with_its_numbers() -> None:
    failure = classified(recorded("The account-level service limit"))
    assert failure is not None
    assert failure.summary == (
        "The quota 'ml.p3.2xlarge for training job usage' is 0, 0 are in use, and the step needs 1 more"
    )


@pytest.mark.parametrize(
    ("text", "category", "code"),
    [
        ("AlgorithmError: Exit Code: 139", C.USER_ERROR, 139),
        ("AlgorithmError: Exit Code: 1", C.USER_ERROR, 1),
        ("AlgorithmError: , exit code: 2", C.USER_ERROR, 2),
        ("AlgorithmError: ValueError: no such column, exit code: 1", C.USER_ERROR, 1),
        ("AlgorithmError: , exit code: 127", C.BAD_CONFIG, 127),
        ("AlgorithmError: , exit code: 126", C.BAD_CONFIG, 126),
        ("AlgorithmError: , exit code: 137", C.OOM, 137),
        ("AlgorithmError: , exit code: -9", C.OOM, -9),
        ("AlgorithmError: , exit code: 64", C.BAD_CONFIG, 64),
        ("AlgorithmError: cut in the mid", C.USER_ERROR, None),
        ("AlgorithmError: cat: command not found, exit code: 127", C.USER_ERROR, 127),
        ("AlgorithmError: CapacityError: Out of Memory, exit code: 137, exit code: 3", C.USER_ERROR, 3),
    ],
)
def test_the_end_of_a_container(text: str, category: Category, code: int | None) -> None:
    """Only the exit code counts: the step wrote the rest."""
    failure = classified(text)
    assert failure is not None
    assert (failure.category, failure.exit_code) == (category, code)


@pytest.mark.parametrize(
    ("secondary", "category", "hint"),
    [
        ("MaxRuntimeExceeded", C.TIMEOUT, "raise timeout= or settings.max_runtime_in_seconds"),
        ("MaxWaitTimeExceeded", C.NO_CAPACITY, "raise settings.max_wait_time_in_seconds"),
        ("Stopped", C.CANCELLED, ""),
        ("", C.CANCELLED, ""),
    ],
)
def test_a_stopped_job(secondary: str, category: Category, hint: str) -> None:
    job = {"TrainingJobStatus": "Stopped", "SecondaryStatus": secondary, "StoppingCondition": {}}
    failure = failure_of(job)
    assert failure is not None
    assert failure.category is category
    assert failure.hint.startswith(hint)


def failed(reason: str | None, **job: Any) -> dict[str, Any]:
    given = {"FailureReason": reason} if reason is not None else {}
    return {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", **given, **job}


def test_a_job_that_has_not_failed_has_no_failure() -> None:
    for status in ("InProgress", "Completed", "Stopping", "Deleting"):
        assert failure_of({"TrainingJobStatus": status}) is None


@pytest.mark.parametrize("code", [1, 64, 74])
def test_the_outcome_says_more_than_the_runners_exit_code(code: int) -> None:
    assert failure_of(failed(f"AlgorithmError: , exit code: {code}")) is None


def test_a_failure_without_a_known_text_is_tried_again() -> None:
    for reason in (None, "", "SomethingNew: that nobody has seen"):
        failure = failure_of(failed(reason))
        assert failure is not None
        assert failure.category is C.INFRA
        assert (reason or "it gives no reason") in failure.summary


# -- the receipt at the front


@pytest.mark.parametrize("between", ["\n", " ", "\r\n"])
def test_a_receipt_at_the_front_is_read(between: str) -> None:
    """Then the outcome says why the step failed, and what people read is there as well."""
    reason = f"AlgorithmError: {RECEIPT}{between}user_error: ValueError: no such: column, exit code: 1"
    assert receipt_in(reason) == Receipt("a" * 64, 12)
    assert failure_of(failed(reason)) is None
    failure = reported_in(reason)
    assert failure is not None
    assert (failure.category, failure.summary) == (C.USER_ERROR, "ValueError: no such: column")
    assert failure.exit_code is None, "1 is the exit code of the runner"


@pytest.mark.parametrize(
    ("given", "code"), [("3", 3), ("-9", -9), ("null", None), ('"3"', None), ("1e99", None)]
)
def test_the_exit_code_of_the_step_is_in_the_receipt(given: str, code: int | None) -> None:
    receipt = f'{RECEIPT[:-1]},"exit_code":{given}}}'
    failure = reported_in(f"AlgorithmError: {receipt}\nuser_error: it ended, exit code: 1")
    assert failure is not None
    assert (failure.summary, failure.exit_code) == ("it ended", code)


def test_a_reason_that_was_cut_still_has_its_receipt() -> None:
    reason = f"AlgorithmError: {RECEIPT}\nrequirements: pip could not inst"
    failure = reported_in(reason)
    assert failure is not None
    assert (failure.category, failure.exit_code) == (C.REQUIREMENTS, None)
    assert receipt_in(f"AlgorithmError: {RECEIPT}") == Receipt("a" * 64, 12)
    assert reported_in(f"AlgorithmError: {RECEIPT}, exit code: 1") is not None


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "AlgorithmError: ",
        "AlgorithmError: {",
        "AlgorithmError: {}",
        f"ClientError: {RECEIPT}",
        "AlgorithmError: 1",
    ],
)
def test_a_reason_without_a_receipt(reason: str) -> None:
    assert receipt_in(reason) is None
    assert reported_in(reason) is None


# -- hostile names

WORDS = [
    "out-of-memory", "Out of Memory", "AccessDenied", "access-denied", "(AccessDenied: Access Denied)",
    "CapacityError: ", "InternalServerError", "timeout", "quota", "Rate exceeded", "exit code: 137",
    "API error (404): manifest for x not found", "No space left on device",
    "x is not authorized to perform: s3:GetObject on resource: y",
    "{text}", "{quota}", "'", '"', "executable file not found in $PATH", "\n", "\\",
]  # fmt: skip
JOB_NAME = st.from_regex(
    r"s-[a-z0-9]{1,8}(-(timeout|denied|oom|quota|memory|capacity|error)){0,3}", fullmatch=True
)
KEY = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=4).map("".join)


@given(KEY)
@example("x (AccessDenied: y")
@example(": No space left on device")
def test_a_hostile_key_decides_nothing(key: str) -> None:
    """A key in S3 may contain any text."""
    cases = [
        (f"{DOWNLOAD}Unable to download object s3://B/{key} (AccessDenied: Access Denied)", C.DENIED),
        (f"{DOWNLOAD}Unable to download object s3://B/{key} (NoSuchKey: It does not exist.)", C.BAD_CONFIG),
        (f"{DOWNLOAD}Failed to download data. S3 key: s3://B/{key}//x has an illegal char sub-sequence '//' "
         "in it", C.BAD_CONFIG),
        (f'No S3 objects found under S3 URL "s3://B/{key}" given in input data source.', C.BAD_CONFIG),
    ]  # fmt: skip
    for text, category in cases:
        failure = classified(text)
        assert failure is not None
        assert failure.category is category, text


@given(KEY, st.integers(2, 120).filter(lambda code: code != EXIT_REFUSED))
def test_what_the_step_writes_decides_nothing(said: str, code: int) -> None:
    failure = classified(f"AlgorithmError: {said}, exit code: {code}")
    assert failure is not None
    assert (failure.category, failure.exit_code) == (C.USER_ERROR, code)


@given(JOB_NAME, JOB_NAME, JOB_NAME)
def test_hostile_names_of_jobs_repositories_and_roles_decide_nothing(
    job: str, repository: str, role: str
) -> None:
    """A job is found by its text alone, whatever its names say."""
    arn = f"arn:aws:iam::123456789012:role/{role}"
    image = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/{repository}:{job}"
    described = {"TrainingJobName": job, "RoleArn": arn, "AlgorithmSpecification": {"TrainingImage": image}}
    cases = [
        (f"ClientError: SageMaker was unable to assume the role '{arn}'", C.DENIED),
        (f"ClientError: Cannot find repository: {repository} in registry ID: 1 Please check {arn}",
         C.IMAGE_PULL),
        (f"...API error (404): manifest for {image} not found: manifest unknown", C.IMAGE_PULL),
        (f"Something new about {job}, {repository} and {role}", C.INFRA),
        (f"The account-level service limit 'ml.m5.large for {job}' is 2 Instances, with current utilization "
         "of 2 Instances and a request delta of 1 Instances.", C.QUOTA),
    ]  # fmt: skip
    for text, category in cases:
        failure = failure_of(failed(text, **described))
        assert failure is not None
        assert failure.category is category, text


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    for reason in (
        text,
        f"AlgorithmError: {text}",
        f"ClientError: {text}",
        f"AlgorithmError: {RECEIPT}{text}",
    ):
        classified(reason)
        failure_of(failed(reason))
        reported_in(reason)
