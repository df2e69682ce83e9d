"""The parts of IAM, STS, ECR and Service Quotas that somebody needs who checks an account.

IAM and STS speak the query protocol (a form, answered with XML), the others JSON 1.1. They share the
emulator's table of identities, roles, repositories and quotas. Every call needs its own permission.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from tests.emulators.sagemaker.errors import ApiError
from tests.emulators.sagemaker.iam import decision, require
from tests.emulators.sagemaker.images import digest_of
from tests.emulators.sagemaker.model import service
from tests.emulators.sagemaker.operations import Call, Json
from tests.emulators.sagemaker.world import World

Form = dict[str, str]


class Query:
    """IAM and STS. A method returns what becomes the XML below ``ACTIONResult``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get_caller_identity(self, call: Call) -> Json:
        arn = call.caller.arn
        return {"Arn": arn, "UserId": "AIDAEMULATOR", "Account": self._world.settings.account}

    def get_role(self, call: Call) -> Json:
        name = call.body["RoleName"]
        role = next((one for one in self._world.iam.roles.values() if one.name == name), None)
        account = self._world.settings.account
        require(call.caller, "iam:GetRole", role.arn if role else f"arn:aws:iam::{account}:role/{name}")
        if role is None:
            raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.", 404)
        return {
            "Role": {
                "Path": "/" + role.arn.partition(":role/")[2][: -len(name)],
                "RoleName": name,
                "RoleId": "AROAEMULATOR" + hashlib.sha256(role.arn.encode()).hexdigest()[:9].upper(),
                "Arn": role.arn,
                "CreateDate": "2026-01-01T00:00:00Z",
                "AssumeRolePolicyDocument": quote(json.dumps(role.trust_policy)),
                "MaxSessionDuration": 3600,
            }
        }

    def simulate_principal_policy(self, call: Call) -> Json:
        source = call.body["PolicySourceArn"]
        require(call.caller, "iam:SimulatePrincipalPolicy", source)
        policies = self._policies_of(source)
        context = {
            call.body[f"{entry}.ContextKeyName"]: members(call.body, f"{entry}.ContextKeyValues")
            for entry in prefixes(call.body, "ContextEntries")
        }
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": decision(policies, action, resource, context),
                "MatchedStatements": [],
                "MissingContextValues": [],
            }
            for action in members(call.body, "ActionNames")
            for resource in members(call.body, "ResourceArns") or ["*"]
        ]
        return {"EvaluationResults": results, "IsTruncated": "false"}

    def _policies_of(self, arn: str) -> tuple[Json, ...]:
        iam = self._world.iam
        known: list[Any] = [*iam.roles.values(), *iam.keys.values()]
        known += [iam.default] if iam.default else []
        for one in known:
            if one.arn == arn:
                return tuple(one.policies)
        raise ApiError("NoSuchEntity", f"The principal {arn} cannot be found.", 404)


class Ecr:
    """ECR: which images there are."""

    def __init__(self, world: World) -> None:
        self._world = world

    def describe_images(self, call: Call) -> Json:
        name, tags, registry = self._repository(call, "ecr:DescribeImages")
        wanted = [one.get("imageTag", "") for one in call.body.get("imageIds", [])] or tags
        missing = [tag for tag in wanted if tag not in tags]
        if missing:
            image = f"{{imageDigest:'null', imageTag:'{missing[0]}'}}"
            text = (
                f"The image with imageId {image} does not exist within the repository "
                f"with name '{name}' in the registry with id '{registry}'"
            )
            raise ApiError("ImageNotFoundException", text)
        host = f"{registry}.dkr.ecr.{call.region}.amazonaws.com"
        details = [
            {
                "registryId": registry,
                "repositoryName": name,
                "imageDigest": digest_of(f"{host}/{name}", tag),
                "imageTags": [tag],
                "imageSizeInBytes": 100_000_000,
                "imagePushedAt": 1767225600.0,
            }
            for tag in wanted
        ]
        return {"imageDetails": details}

    def batch_get_image(self, call: Call) -> Json:
        name, tags, registry = self._repository(call, "ecr:BatchGetImage")
        images, failures = [], []
        for one in call.body["imageIds"]:
            tag = one.get("imageTag", "")
            if tag in tags:
                images.append(
                    {"registryId": registry, "repositoryName": name, "imageId": one, "imageManifest": "{}"}
                )
            else:
                reason = "Requested image not found"
                failures.append({"imageId": one, "failureCode": "ImageNotFound", "failureReason": reason})
        return {"images": images, "failures": failures}

    def _repository(self, call: Call, action: str) -> tuple[str, list[str], str]:
        name = call.body["repositoryName"]
        registry = call.body.get("registryId", self._world.settings.account)
        require(call.caller, action, f"arn:aws:ecr:{call.region}:{registry}:repository/{name}")
        tags = self._world.repositories.get(f"{registry}.dkr.ecr.{call.region}.amazonaws.com/{name}")
        if tags is None:
            text = f"The repository with name '{name}' does not exist in the registry with id '{registry}'"
            raise ApiError("RepositoryNotFoundException", text)
        return name, tags, registry


class Quotas:
    """Service Quotas: the instances for training jobs."""

    UNLIMITED = 1000  # where the emulator has no limit

    def __init__(self, world: World) -> None:
        self._world = world

    def list_service_quotas(self, call: Call) -> Json:
        require(call.caller, "servicequotas:ListServiceQuotas", "*")
        if call.body["ServiceCode"] != "sagemaker":
            text = "The request failed because the specified service does not exist."
            raise ApiError("NoSuchResourceException", text)
        size = call.body.get("MaxResults", 100)
        begin = int(call.body.get("NextToken", "0"))
        found = [self._quota(name, call.region) for name in self._names()]
        answer: Json = {"Quotas": found[begin : begin + size]}
        if begin + size < len(found):
            answer["NextToken"] = str(begin + size)
        return answer

    def get_service_quota(self, call: Call) -> Json:
        code = call.body["QuotaCode"]
        resource = f"arn:aws:servicequotas:{call.region}:{self._world.settings.account}:sagemaker/{code}"
        require(call.caller, "servicequotas:GetServiceQuota", resource)
        for name in self._names():
            if quota_code(name) == code:
                return {"Quota": self._quota(name, call.region)}
        text = "The request failed because the specified service quota does not exist."
        raise ApiError("NoSuchResourceException", text)

    def _names(self) -> Iterator[str]:
        for kind in service("sagemaker").shape_for("TrainingInstanceType").enum:
            yield f"{kind} for training job usage"
            yield f"{kind} for spot training job usage"

    def _quota(self, name: str, region: str) -> Json:
        settings = self._world.settings
        default = self.UNLIMITED if settings.default_quota is None else settings.default_quota
        value = settings.quotas.get(name, settings.quotas.get(name.split(maxsplit=1)[0], default))
        code = quota_code(name)
        return {
            "ServiceCode": "sagemaker",
            "ServiceName": "Amazon SageMaker",
            "QuotaArn": f"arn:aws:servicequotas:{region}:{settings.account}:sagemaker/{code}",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": float(value),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }


def quota_code(name: str) -> str:
    """Return a code for a quota; the real ones have the same form and other digits."""
    return f"L-{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"


def prefixes(form: Form, name: str) -> list[str]:
    """Return ``NAME.member.1`` and so on, as far as the form has fields below them."""
    found = []
    number = 1
    while any(key.startswith((f"{name}.member.{number}.", f"{name}.member.{number}=")) for key in form):
        found.append(f"{name}.member.{number}")
        number += 1
    return found


def members(form: Form, name: str) -> list[str]:
    """Return the values of ``NAME.member.1`` and so on."""
    found, number = [], 1
    while f"{name}.member.{number}" in form:
        found.append(form[f"{name}.member.{number}"])
        number += 1
    return found


def xml(value: Any) -> str:
    """Return a value as the query protocol writes it."""
    if isinstance(value, dict):
        return "".join(f"<{key}>{xml(item)}</{key}>" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"<member>{xml(item)}</member>" for item in value)
    return escape(str(value))
