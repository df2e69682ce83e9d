"""The checks of ``airflow stepop check`` for SageMaker: identity, role, bucket, image, logs, quota.

Each finding of a missing permission names the IAM statement that gives it. The checks start no job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.common.checks import Check
from airflow_stepop.hooks.sagemaker.images import resolve_image
from airflow_stepop.hooks.sagemaker.log_access import log_reads
from airflow_stepop.hooks.sagemaker.policies import (
    ACCOUNT,
    BUCKET,
    CALLER,
    JOB_ROLE,
    PREFIX,
    REGION,
    TRUST,
    Statement,
    filled,
)
from airflow_stepop.hooks.sagemaker.request import role_arn
from airflow_stepop.hooks.sagemaker.service import NAME_PART, NO_JOB, api_error
from airflow_stepop.job import Finding

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
    from airflow_stepop.stores.bucket import BucketStore

SERVICE = "sagemaker.amazonaws.com"
_ECR = re.compile(
    r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([^@]+))?(?:@(.+))?"
)


@dataclass(frozen=True)
class Subject:
    """What is checked.

    :param clients: of the connection and the region
    :param settings: of the steps
    :param image: of the steps; ``None``: each task names its own
    :param store: bucket of the steps' data; ``None``: the store is no bucket
    """

    clients: AwsClients
    settings: SageMakerSettings
    image: str | None
    store: BucketStore | None


def checks(subject: Subject) -> Iterator[Check]:
    """Yield the checks, in order. The identity comes first: without one, nothing else can be asked."""
    yield Check(
        "identity",
        lambda: _identity(subject),
        "correct the keys or the role of the connection",
        is_needed=True,
    )
    names = _names(subject)  # the account is known now
    yield Check("training jobs", lambda: _jobs(subject), _allow(names, "RunJobs", "ListJobs"))
    yield Check("role", lambda: _role(subject), "see Roles in the documentation of the backend")
    yield Check("store", lambda: _store(subject), _allow(names, "StoreObjects", "StoreList"))
    yield Check("image", lambda: _image(subject), "write another image=, or push this one to ECR")
    yield Check("logs", lambda: _logs(subject), _allow(names, "ReadLogs"))
    yield Check("quota", lambda: _quota(subject), "ask for more in the console, under Service Quotas")


def _names(subject: Subject) -> dict[str, str]:
    """Return what replaces the words in capitals in a statement."""
    found = {ACCOUNT: subject.clients.account, REGION: subject.clients.region}
    if subject.store is not None:
        found |= {BUCKET: subject.store.bucket, PREFIX: subject.store.prefix}
    return found


def _allow(names: Mapping[str, str], *statements: str) -> str:
    return "give the caller " + " and ".join(_shown(filled(CALLER[name], names)) for name in statements)


def _shown(statement: Statement) -> str:
    return json.dumps(statement)


def _identity(subject: Subject) -> Iterator[Finding]:
    clients = subject.clients
    yield Finding(True, "identity", f"{clients.identity['Arn']} in {clients.region}")


def _jobs(subject: Subject) -> Iterator[Finding]:
    client = subject.clients.client("sagemaker")
    client.list_training_jobs(
        MaxResults=1, NameContains=NAME_PART, SortBy="CreationTime", SortOrder="Descending"
    )
    try:
        client.describe_training_job(TrainingJobName=NO_JOB)
    except Exception as error:
        if api_error(error).kind is not Trouble.NOT_FOUND:
            raise
    yield Finding(True, "training jobs", "Airflow may list and describe them")


# -- the role of the jobs


def _role(subject: Subject) -> Iterator[Finding]:
    clients = subject.clients
    try:
        arn = role_arn(subject.settings.role, clients.region, clients.account)
    except StepConfigError as error:
        yield Finding(False, "role", str(error), "name the role of the jobs")
        return
    yield from _trust(clients, arn)
    yield from _pass(clients, arn)


def _trust(clients: AwsClients, arn: str) -> Iterator[Finding]:
    name = arn.rpartition("/")[2]
    try:
        role = clients.client("iam").get_role(RoleName=name)["Role"]
    except Exception as error:
        found = api_error(error)
        if found.kind is Trouble.NOT_FOUND:
            yield Finding(False, "role", f"there is no role {arn}", "create the role, or correct its name")
        elif found.kind is Trouble.DENIED:
            yield Finding(True, "role", f"{arn}: not looked at, since the caller must not call iam:GetRole")
        else:
            raise
        return
    document = role["AssumeRolePolicyDocument"]
    document = json.loads(document) if isinstance(document, str) else document
    if _trusts_sagemaker(document):
        yield Finding(True, "role", f"{arn} exists and trusts SageMaker")
    else:
        fix = f"add to the role's trust policy {_shown(TRUST)}"
        yield Finding(False, "role", f"{arn} does not trust SageMaker, so no job can use it", fix)


def _trusts_sagemaker(document: Mapping[str, Any]) -> bool:
    for statement in _as_list(document.get("Statement")):
        principals = statement.get("Principal") or {}
        services = _as_list(principals.get("Service")) if isinstance(principals, Mapping) else []
        if statement.get("Effect") == "Allow" and SERVICE in services:
            return True
    return False


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _pass(clients: AwsClients, arn: str) -> Iterator[Finding]:
    context = {
        "ContextKeyName": "iam:PassedToService",
        "ContextKeyType": "string",
        "ContextKeyValues": [SERVICE],
    }
    try:
        answer = clients.client("iam").simulate_principal_policy(
            PolicySourceArn=_principal(clients.identity["Arn"]),
            ActionNames=["iam:PassRole"],
            ResourceArns=[arn],
            ContextEntries=[context],
        )
    except Exception as error:
        if api_error(error).kind is not Trouble.DENIED:
            raise
        text = "whether Airflow may pass it is not known, since it must not call iam:SimulatePrincipalPolicy"
        yield Finding(True, "role", f"{arn}: {text}")
        return
    decisions = [one["EvalDecision"] for one in answer["EvaluationResults"]]
    if decisions == ["allowed"]:
        yield Finding(True, "role", f"Airflow may pass {arn} to SageMaker")
    else:
        statement = {**CALLER["PassRole"], "Resource": arn}
        yield Finding(False, "role", f"Airflow must not pass {arn}", f"give the caller {_shown(statement)}")


def _principal(arn: str) -> str:
    """Return the ARN of the role behind the ARN of an assumed role; any other ARN unchanged."""
    match = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.*", arn)
    return f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}" if match else arn


# -- the store, the image, the logs, the quota


def _store(subject: Subject) -> Iterable[Finding]:
    store = subject.store
    if store is None:
        fix = "set [stepop] store to s3://bucket/prefix"
        return [Finding(False, "store", "steps on SageMaker need a store in S3", fix)]
    return [_location(subject, store), _access(store)]


def _location(subject: Subject, store: BucketStore) -> Finding:
    region = subject.clients.region
    try:
        answer = subject.clients.client("s3").get_bucket_location(Bucket=store.bucket)
    except Exception as error:
        if api_error(error).kind is not Trouble.DENIED:
            raise
        note = "its region is not known, since the caller must not call s3:GetBucketLocation"
        return Finding(True, "store", f"{store}: {note}")
    there = answer.get("LocationConstraint") or "us-east-1"
    there = {"EU": "eu-west-1"}.get(there, there)
    if there == region:
        return Finding(True, "store", f"{store} is in {region}, where the jobs run")
    text = (
        f"{store} is in {there}, and the jobs run in {region}: SageMaker reads buckets of its own region only"
    )
    return Finding(False, "store", text, f"name a bucket in {region}, or set region_name to {there}")


def _access(store: BucketStore) -> Finding:
    """Write, list, read and delete an object.

    :raises StoreError: one of them is not possible
    """
    folder = f"check/{token_hex(8)}"
    store.put_new(f"{folder}/object", b"check")
    list(store.list(folder))
    store.read(f"{folder}/object", 5)
    store.delete_folder(folder)
    return Finding(True, "store", f"{store} can be written, listed, read and deleted from")


def _image(subject: Subject) -> Iterable[Finding]:
    if not subject.image:
        return [Finding(True, "image", "each task names its own")]
    uri = resolve_image(subject.image, subject.clients.region, False).uri
    match = _ECR.fullmatch(uri)
    if match is None:
        return [Finding(True, "image", f"{uri} is not in ECR, and is not looked at")]
    registry, region, repository, tag, digest = match.groups()
    if registry != subject.clients.account or region != subject.clients.region:
        return [Finding(True, "image", f"{uri} belongs to another account or region, and is not looked at")]
    wanted = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    try:
        subject.clients.client("ecr").describe_images(
            registryId=registry, repositoryName=repository, imageIds=[wanted]
        )
    except Exception as error:
        found = api_error(error)
        if found.kind is Trouble.DENIED:
            text = f"{uri} is not looked at, since the caller must not call ecr:DescribeImages"
            return [Finding(True, "image", text)]
        fix = f"push the image; the role of the jobs needs {_shown(JOB_ROLE['ReadImage'])}"
        return [Finding(False, "image", f"{uri}: {found.message}", fix)]
    return [Finding(True, "image", f"{uri} exists")]


def _logs(subject: Subject) -> Iterator[Finding]:
    words = {"logs:DescribeLogStreams": "names", "logs:FilterLogEvents": "lines"}
    clients = subject.clients
    for action, ask in log_reads(clients.client("logs"), clients.region).items():
        try:
            ask()
        except Exception as error:
            if api_error(error).kind is not Trouble.NOT_FOUND:  # no job of this region has printed yet
                raise
        yield Finding(True, "logs", f"Airflow may read the {words[action]} of the logs")


def _quota(subject: Subject) -> Iterator[Finding]:
    kind = "spot training job usage" if subject.settings.use_spot_instances else "training job usage"
    for machine in subject.settings.instance_types:
        wanted = f"{machine} for {kind}"
        value = _quota_of(subject.clients, wanted)
        if value is None:
            yield Finding(True, "quota", f"{wanted}: not known")
        elif value >= 1:
            yield Finding(True, "quota", f"{wanted}: {value:g}")
        else:
            yield Finding(
                False, "quota", f"{wanted}: 0, so every job is refused", f"ask for {wanted} in Service Quotas"
            )
    if not subject.settings.instance_types:
        yield Finding(True, "quota", "not looked at: no instance_type is named; try check --settings")


def _quota_of(clients: AwsClients, name: str) -> float | None:
    """Return the value of a quota; ``None`` if there is none of this name, or it must not be read."""
    try:
        for page in (
            clients.client("service-quotas")
            .get_paginator("list_service_quotas")
            .paginate(ServiceCode="sagemaker")
        ):
            for quota in page["Quotas"]:
                if quota["QuotaName"] == name:
                    return float(quota["Value"])
    except Exception as error:
        if api_error(error).kind is not Trouble.DENIED:
            raise
    return None
