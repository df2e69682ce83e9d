"""Classifies why a training job failed, or why SageMaker refused it: category, summary and what to do.

Sources of the texts: ``FailureReason`` of
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html and answers of the real
service in public reports; each rule is tested with the text that it was written for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.failure_rules import Rule, failure_by
from airflow_stepop.hooks.common.receipts import Receipt
from airflow_stepop.runner.protocol import EXIT_NO_OUTCOME, EXIT_REFUSED, EXIT_STEP_FAILED

_TRUST = (
    'let the role trust SageMaker: its trust policy needs {{"Effect": "Allow", "Principal": {{"Service": '
    '"sagemaker.amazonaws.com"}}, "Action": "sts:AssumeRole"}}; check settings.role, too'
)
_PULL = (
    "check image= and its tag; settings.role needs ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and "
    "ecr:BatchCheckLayerAvailability on the repository, and ecr:GetAuthorizationToken on *"
)
_TAG = "image= names a tag that the repository does not have; push the image, or write another tag"
_LARGER = "raise memory of resource_settings, or name a larger machine in settings.instance_type"
_DISK = "raise disk of resource_settings, or settings.volume_size_in_gb"
_READ = (
    "settings.role needs s3:GetObject on the objects and s3:ListBucket on the bucket; for a bucket with a "
    "KMS key kms:Decrypt, too"
)
# what the service may have been doing; each of its texts begins with such words
_STAGE = (
    r"\A(?:ClientError: ?)?"
    r"(?:(?:Artifact upload|Data download|TrainingHostAgent Initialization) failed: ?)*"
    r"(?:(?:ClientError|InvalidInputException): ?)?"
)

RULES = (
    Rule(
        r"\ACapacityError\b",
        Category.NO_CAPACITY,
        "SageMaker had no free machine: {text}",
        "name another machine, or a list of them, in settings.instance_type; or run in another region",
    ),
    Rule(
        r"\AInternalServerError\b",
        Category.INFRA,
        "SageMaker failed: {text}",
        "settings.max_retry_attempts lets the service start a job again by itself; if this happens each "
        "time, try another image: the service also says so when an image cannot start",
    ),
    Rule(
        r"\A(?:ResourceLimitExceeded: )?The account-level service limit '(?P<quota>[^']*)' is "
        r"(?P<limit>[\d.]+) \w+, with current utilization of (?P<used>[\d.]+) \w+ "
        r"and a request delta of (?P<asked>[\d.]+)",
        Category.QUOTA,
        "The quota '{quota}' is {limit}, {used} are in use, and the step needs {asked} more",
        "ask AWS for a higher quota (Service Quotas, Amazon SageMaker, '{quota}'), run fewer steps at once, "
        "or name another machine in settings.instance_type",
    ),
    Rule(
        r"\A(?:ThrottlingException: )?Rate exceeded",
        Category.QUOTA,
        "SageMaker takes fewer requests per second: {text}",
        "run fewer steps at once; the task tries again by itself",
    ),
    Rule(
        _STAGE + r"(?:Please use an instance type with more memory|Out of Memory\b)",
        Category.OOM,
        "The step ran out of memory: {text}",
        _LARGER,
    ),
    Rule(
        _STAGE + r"(?:SageMaker is unable to perform: sts:AssumeRole|SageMaker was unable to assume the role"
        r"|Could not assume role)",
        Category.DENIED,
        hint=_TRUST,
    ),
    Rule(
        _STAGE + r"(?:Cannot find repository:|Access denied for repository)", Category.IMAGE_PULL, hint=_PULL
    ),
    Rule(r"\ACannot find the requested image:", Category.IMAGE_PULL, hint=_TAG),
    Rule(
        _STAGE + "Cannot pull algorithm container",
        Category.IMAGE_PULL,
        hint=f"{_PULL}. An image that is larger than the machine's volume fails like this, too: raise disk "
        "of resource_settings or settings.volume_size_in_gb",
    ),
    Rule(
        _STAGE + "Invalid training image",
        Category.BAD_CONFIG,
        hint="image= must be the address of an image in Amazon ECR: "
        "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG",
    ),
    Rule(
        _STAGE + "TrainingImageConfig with TrainingRepositoryAccessMode set to VPC must be provided",
        Category.BAD_CONFIG,
        hint="copy the image to Amazon ECR; or set settings.subnets, settings.security_group_ids, and "
        'overrides={{"AlgorithmSpecification": {{"TrainingImageConfig": {{"TrainingRepositoryAccessMode": '
        '"Vpc"}}}}}}',
    ),
    Rule(
        _STAGE + r"API error \(400\): .*executable file not found in \$PATH",
        Category.BAD_CONFIG,
        "The image has no python3: {text}",
        "use an image with python3 in its PATH, or write the path of its interpreter in settings.python",
    ),
    Rule(
        _STAGE + r"API error \(\d+\): .*exec format error",
        Category.BAD_CONFIG,
        "The image is for another kind of processor: {text}",
        "build the image for linux/amd64",
    ),
    Rule(
        _STAGE + r"Please ensure that the subnet's route table has a route to an S3 VPC endpoint",
        Category.BAD_CONFIG,
        hint="add a gateway endpoint for S3 to the route tables of settings.subnets, and let the groups in "
        "settings.security_group_ids send to S3",
    ),
    Rule(
        _STAGE + r"(?:Unable to download object .*\(AccessDenied: [^()]*\)?\Z"
        r"|Unauthorized to List objects under S3 URL)",
        Category.DENIED,
        "The role may not read the step's input: {text}",
        _READ,
    ),
    Rule(
        _STAGE + "Access denied to OutputDataConfig S3 bucket",
        Category.DENIED,
        "The role may not write the step's result: {text}",
        "settings.role needs s3:PutObject on the store's objects; for a bucket with a KMS key "
        "kms:GenerateDataKey, too",
    ),
    Rule(
        _STAGE + "Failed to download data. S3 key: .*has an illegal char sub-sequence",
        Category.BAD_CONFIG,
        hint="the service reads no key with '//': remove the second slash from settings.input_data_s3_uri, "
        "or rename the objects",
    ),
    Rule(
        _STAGE + "No S3 objects found under S3 URL",
        Category.BAD_CONFIG,
        hint="check settings.input_data_s3_uri: no object begins with it; the bucket must be in the "
        "job's region",
    ),
    Rule(
        r"\AInvalid MaxWaitTimeInSeconds",
        Category.BAD_CONFIG,
        hint="settings.max_wait_time_in_seconds needs settings.use_spot_instances=True",
    ),
    Rule(_STAGE + r"[^:]*: No space left on device\Z", Category.BAD_CONFIG, hint=_DISK),
    Rule(
        _STAGE + r"(?:Data download failed|Unable to download object)",
        Category.BAD_CONFIG,
        "SageMaker could not copy the step's input: {text}",
        f"check settings.input_data_s3_uri; {_READ}",
    ),
    Rule(
        r"\AMaxPendingTime",
        Category.START_TIMEOUT,
        hint="raise start_timeout, or name another machine in settings.instance_type",
    ),
    # The service writes these behind words that are not known, so no rule can begin with them
    Rule(r"API error \(404\): manifest for .*not found", Category.IMAGE_PULL, hint=_TAG),
    Rule(
        r"\bis not authorized to perform: (?P<action>[\w-]+:\w+) on resource: ?(?P<resource>\S*)",
        Category.DENIED,
        hint="add to the policy of the role or user that the message names: allow {action} on {resource}",
    ),
    Rule(
        r"\bis not authorized to perform: (?P<action>[\w-]+:\w+)",
        Category.DENIED,
        hint="add to the policy of the role or user that the message names: allow {action}",
    ),
    Rule(
        r"(?:\A|[:\]] ?)No space left on device",
        Category.BAD_CONFIG,
        hint=_DISK,
    ),
    Rule(r"\AClientError\b", Category.BAD_CONFIG, hint="the service says what is wrong with the job"),
)

# SIGKILL without a word: the kernel ends a process so when the machine has no memory left
_KILLED = (137, -9)
_BROKEN_START = (126, 127)
_OF_THE_RUNNER = (EXIT_STEP_FAILED, EXIT_REFUSED, EXIT_NO_OUTCOME)  # the outcome says more
_ALGORITHM = re.compile(
    r"AlgorithmError:? ?(?P<text>.*?),? ?(?:exit code: (?P<code>-?\d+))?\s*", re.DOTALL | re.I
)


def failure_of(job: Mapping[str, Any], names: Iterable[str] = ()) -> Failure | None:
    """Return why a job ended, as the service says; ``None`` if it did not fail or its outcome says more.

    :param job: answer of ``DescribeTrainingJob``
    :param names: further names that the service's text may contain
    """
    status, secondary = job.get("TrainingJobStatus"), str(job.get("SecondaryStatus") or "")
    if status == "Stopped":
        return _stopped(job, secondary)
    if status != "Failed":
        return None
    reason = str(job.get("FailureReason") or "")
    if receipt_in(reason) is not None:
        return None
    found = classified(reason, [*_names_of(job), *names])
    if found is None:
        summary = f"SageMaker failed the job: {reason or 'it gives no reason'}"
        return Failure(Category.INFRA, summary, secondary)
    is_of_the_runner = found.native_reason == "AlgorithmError" and found.exit_code in _OF_THE_RUNNER
    return None if is_of_the_runner else found


def classified(text: str, names: Iterable[str] = ()) -> Failure | None:
    """Return the failure that a text of the service describes; ``None`` for a text that is not known.

    :param text: a ``FailureReason``, or the message of an error of ``CreateTrainingJob``
    :param names: names that the text may contain, such as the job's
    """
    if re.match(r"AlgorithmError\b", text):
        return _of_the_step(text)
    native = re.match(r"[A-Za-z]+(?:Error|Exception|Exceeded)\b", text)
    return failure_by(RULES, text, native_reason=native[0] if native else "", names=names)


def receipt_in(reason: str) -> Receipt | None:
    """Return the receipt at the front of a ``FailureReason``; ``None`` if there is none.

    The runner writes it to ``/opt/ml/output/failure``, whose text the service puts behind ``AlgorithmError``.
    """
    begin = "AlgorithmError: "
    if not reason.startswith(
        begin
    ):  # other texts may contain names that somebody else has chosen, as keys in S3
        return None
    text = reason.removeprefix(begin)
    try:
        data, _ = json.JSONDecoder().raw_decode(text.lstrip())
        return Receipt.from_json(data)
    except (ValueError, RecursionError, IntegrityError):
        return None


def has_outcome(reason: str) -> bool:
    """Return whether a ``FailureReason`` says that the runner has written an outcome.

    The exit code says so, too, where the service does not show the text of the runner.
    """
    if receipt_in(reason) is not None:
        return True
    found = _ALGORITHM.fullmatch(reason)
    return found is not None and found["code"] in (str(EXIT_STEP_FAILED), str(EXIT_REFUSED))


def reported_in(reason: str) -> Failure | None:
    """Return the failure that the runner wrote behind its receipt; ``None`` without one.

    It has category, message and exit code of a step whose outcome cannot be read.
    """
    if receipt_in(reason) is None:
        return None
    found = _ALGORITHM.fullmatch(reason)
    assert found is not None  # noqa: S101 - it begins so, since it has a receipt
    text = found["text"].lstrip()
    data, end = json.JSONDecoder().raw_decode(text)
    said = text[end:].strip()
    word, _, message = said.partition(": ")
    given = data.get("exit_code")
    code = given if type(given) is int and abs(given) < 2**31 else None
    if word not in set(Category):
        return Failure(Category.USER_ERROR, said or "The step failed", "AlgorithmError", code)
    return Failure(Category(word), message or "The step failed", "AlgorithmError", code)


def _of_the_step(text: str) -> Failure:
    """Return the failure of a job whose container ended with an exit code and left no receipt.

    What stands between the prefix and the exit code was written by the step: it decides nothing.
    """
    found = _ALGORITHM.fullmatch(text)
    assert found is not None  # noqa: S101 - the caller has seen the prefix
    said, code = found["text"].strip(), int(found["code"]) if found["code"] else None
    if code in _KILLED:
        summary = "The step was killed, most likely because the machine had no memory left"
        return Failure(Category.OOM, summary, "AlgorithmError", code, _LARGER)
    if code in _BROKEN_START and not said:
        hint = (
            "use an image with python3 in its PATH, or write the path of its interpreter in settings.python"
        )
        return Failure(Category.BAD_CONFIG, "The image could not run python3", "AlgorithmError", code, hint)
    if code == EXIT_REFUSED:
        hint = "see the last lines of the log, in which the runner says what it found"
        summary = "The runner refused to start the step"
        return Failure(Category.BAD_CONFIG, summary, "AlgorithmError", code, hint)
    summary = f"The step failed: {said}" if said else "The step's container ended without a word"
    hint = "see the last lines of the log"
    return Failure(Category.USER_ERROR, summary, "AlgorithmError", code, hint)


def _stopped(job: Mapping[str, Any], secondary: str) -> Failure:
    if secondary == "MaxRuntimeExceeded":
        hint = "raise timeout= or settings.max_runtime_in_seconds, or do less"
        return Failure(Category.TIMEOUT, "The step ran longer than its timeout", secondary, None, hint)
    if secondary == "MaxWaitTimeExceeded":
        waited = job.get("StoppingCondition", {}).get("MaxWaitTimeInSeconds")
        summary = f"Spot capacity did not last for the step within {waited or 'the allowed'} seconds"
        hint = "raise settings.max_wait_time_in_seconds, or write use_spot_instances=False"
        return Failure(Category.NO_CAPACITY, summary, secondary, None, hint)
    return Failure(Category.CANCELLED, "The job was stopped", secondary or "Stopped")


def _names_of(job: Mapping[str, Any]) -> list[str]:
    """Return the names in a job that people choose."""
    image = str(job.get("AlgorithmSpecification", {}).get("TrainingImage") or "")
    role = str(job.get("RoleArn") or "")
    repository = re.split(r"[:@]", image.partition("/")[2])[0]
    return [str(job.get("TrainingJobName") or ""), role, role.rpartition("/")[2], image, repository]
