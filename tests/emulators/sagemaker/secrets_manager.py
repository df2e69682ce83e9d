"""Secrets Manager for the containers: moto's, behind the permissions of the role whose credentials they use.

The endpoint of a container's credentials gives the token that names the role, as a session of STS does. A
request with such a token is evaluated with the policies of the role, and its signature is verified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.emulators.sagemaker.errors import ApiError
from tests.emulators.sagemaker.forwarding import Answer, forwarded
from tests.emulators.sagemaker.iam import Identity, Role, credential, require
from tests.emulators.sagemaker.world import World

PREFIX = "secretsmanager"  # of X-Amz-Target
_TOKEN = "session-of-"  # begins the token of a role


def token_of(role_name: str) -> str:
    """Return the session token in the credentials of a role."""
    return f"{_TOKEN}{role_name}"


def secret_answer(world: World, operation: str, headers: Mapping[str, Any], body: bytes) -> Answer:
    """Check who reads a secret, and let moto answer. The other operations are those of tests, and go on."""
    if operation != "GetSecretValue":
        return forwarded(world, headers, body)
    world.faults.strike(operation, after=False)
    caller = _caller(world, headers, body)
    answer = forwarded(world, headers, body)
    told = json.loads(answer.body)
    # An identity without the permission does not learn whether there is a secret
    require(caller, f"secretsmanager:{operation}", told.get("ARN") or json.loads(body)["SecretId"])
    return answer


def _caller(world: World, headers: Mapping[str, Any], body: bytes) -> Identity:
    token = str(headers.get("X-Amz-Security-Token") or "")
    if not token.startswith(_TOKEN):
        return world.iam.caller(headers.get("Authorization"))
    role = next((one for one in world.iam.roles.values() if token_of(one.name) == token), None)
    if role is None:
        raise ApiError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    _verify(world, headers, body)
    return Identity(_session_arn(world, role), role.policies)


def _session_arn(world: World, role: Role) -> str:
    return f"arn:aws:sts::{world.settings.account}:assumed-role/{role.name}/SageMaker"


def _verify(world: World, headers: Mapping[str, Any], body: bytes) -> None:
    """Verify the signature as AWS does: it is made again, from the headers that it names."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    authorization = str(headers["Authorization"])
    fields = dict(one.strip().split("=", 1) for one in authorization.partition(" ")[2].split(","))
    key, _, region, service = credential(authorization)
    secret = world.s3.secret if world.s3 else "none"
    request = AWSRequest("POST", f"http://{headers['Host']}/", data=body)
    for name in fields["SignedHeaders"].split(";"):
        request.headers[name] = headers[name]
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = SigV4Auth(Credentials(key, secret), service, region)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    if service != PREFIX or auth.signature(text, request) != fields["Signature"]:
        text = (
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details."
        )
        raise ApiError("InvalidSignatureException", text)
