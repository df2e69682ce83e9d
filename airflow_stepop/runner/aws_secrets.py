"""Reads secrets from AWS Secrets Manager with the standard library: the image needs no boto3.

A reference is the ARN of a secret. As in ECS, a key of a JSON secret, a stage and a version may follow:
``arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX:JSON-KEY:STAGE:VERSION``.

The credentials are those of the job's role, from the endpoint that ``AWS_CONTAINER_CREDENTIALS_RELATIVE_URI``
or ``..._FULL_URI`` names; without one, those of ``AWS_ACCESS_KEY_ID``. ``AWS_ENDPOINT_URL_SECRETS_MANAGER``
replaces the address of the service, and ``AWS_CA_BUNDLE`` the certificates.

Sources: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html,
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html,
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import namedtuple

from .cloud_api import ask, is_transient
from .failures import RefusedError, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.request import Request

# the parts of a reference; key, stage and version may be empty
Reference = namedtuple("Reference", "arn partition region key stage version")
Keys = namedtuple("Keys", "key secret token")

EXAMPLE = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:NAME-AbCdEf"
FORMS = f"write {EXAMPLE}, with :JSON-KEY:STAGE:VERSION behind it for a part of the secret"
TARGET = "secretsmanager.GetSecretValue"
_ARN = re.compile(
    r"(arn:(aws[a-z-]*):secretsmanager:([a-z0-9-]+):\d{12}:secret:[\w/+=.@!-]+)"
    r"(?::([^:]*)(?::([^:]*)(?::([^:]*))?)?)?",
    re.ASCII,
)
_ECS = "http://169.254.170.2"
# Where credentials may come from without TLS, as the SDKs have it: ECS and EKS, besides this machine itself
_PLAIN_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost", "127.0.0.1", "::1")
_LATER_CODES = ("ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded")  # with status 400


def parse(text: str) -> Reference:
    """Return the parts of a reference.

    :raises ValueError: the text is no reference; the message shows a valid one
    """
    found = _ARN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no ARN of a secret in AWS Secrets Manager; {FORMS}")
    if found[5] and found[6]:
        raise ValueError(f"{text!r} names a stage and a version; write one of them")
    return Reference(*(part or "" for part in found.groups()))


def statement(reference: Reference) -> str:
    """Return the IAM statement that lets a role read the secret, as JSON."""
    return json.dumps(
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": reference.arn}
    )


class Reader:
    """Reads secrets. Each secret, and the credentials, are asked for once."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._keys: Keys | None = None
        self._found: dict[tuple[str, str, str], str] = {}

    def read(self, text: str) -> str:
        """Return the value of a reference.

        :raises RefusedError: it cannot be read; category, summary and hint say why. Never a value is in it
        """
        try:
            reference = parse(text)
        except ValueError as error:
            raise RefusedError("bad_config", str(error)) from None
        wanted = reference.arn, reference.stage, reference.version
        if wanted not in self._found:
            self._found[wanted] = self._text(reference)
        return _part(self._found[wanted], reference)

    def _text(self, reference: Reference) -> str:
        self._keys = self._keys or credentials(self._environment)
        query = {"SecretId": reference.arn}
        query.update({"VersionStage": reference.stage} if reference.stage else {})
        query.update({"VersionId": reference.version} if reference.version else {})
        body, url, keys = json.dumps(query).encode(), endpoint(reference, self._environment), self._keys

        def request() -> Request:
            return signed(url, reference.region, body, keys, time.time())

        try:
            status, data = ask(request, is_later=_is_later, ca_file=self._environment.get("AWS_CA_BUNDLE"))
        except OSError as error:
            raise _unreachable(reference, url, error) from None
        if status != 200:
            raise _refused(reference, status, *_error_of(data))
        try:
            text = json.loads(data).get("SecretString")
        except (ValueError, AttributeError):
            raise _unreachable(reference, url, "its answer is no JSON object") from None
        if isinstance(text, str):
            return text
        summary = f"{reference.arn} holds bytes, and an environment variable holds a text"
        raise RefusedError("bad_config", summary, "store a text in the secret")


def _part(text: str, reference: Reference) -> str:
    """Return the value of the reference's key in a JSON secret; without a key, the whole text."""
    if not reference.key:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        summary = f"{reference.arn} is no JSON object, so that it has no key {reference.key!r}"
        raise RefusedError("bad_config", summary, "take the key out of the reference")
    value = found.get(reference.key)
    if value is None or isinstance(value, (dict, list)):
        what = "has no text or number under the key" if value is not None else "has no key"
        summary = f"{reference.arn} {what} {reference.key!r}"
        raise RefusedError("bad_config", summary, "correct the key in the reference, or add it to the secret")
    return value if isinstance(value, str) else json.dumps(value)


def _refused(reference: Reference, status: int, code: str, message: str) -> RefusedError:
    """Return the error for an answer of the service that is no secret."""
    said = cut(message or code or f"HTTP {status}", 300)
    if code == "ResourceNotFoundException":
        where = f"{reference.arn} or its version does not exist in {reference.region}"
        return RefusedError("bad_config", f"{where}: {said}", "correct the ARN, or create the secret", code)
    if "AccessDenied" in code:
        hint = (
            f"give the role of the job {statement(reference)}; if a KMS key of your own encrypts the secret, "
            "kms:Decrypt on that key, too"
        )
        return RefusedError("denied", said, hint, code)
    if is_transient(status) or code in _LATER_CODES:
        return RefusedError("infra", f"AWS Secrets Manager is not available: {said}", "try again later", code)
    return RefusedError("bad_config", f"AWS Secrets Manager refuses {reference.arn}: {said}", "", code)


def _unreachable(reference: Reference, url: str, error: object) -> RefusedError:
    hint = (
        "give the job a way to it: in a VPC a NAT gateway, or an interface endpoint for "
        f"com.amazonaws.{reference.region}.secretsmanager whose security group lets the job in; set "
        "AWS_ENDPOINT_URL_SECRETS_MANAGER in env= for an endpoint without private DNS"
    )
    return RefusedError("infra", f"{url} cannot be reached: {error}", hint, "Unreachable")


# -- credentials and addresses


def credentials(environment: Mapping[str, str]) -> Keys:
    """Return the credentials of the job's role; if the job has no role, those of the environment.

    :raises RefusedError: there are none
    """
    url = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    if environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        url = _ECS + environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
    if url:
        return _from_endpoint(url, environment)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    found = Keys(*(environment.get(name, "") for name in names))
    if found.key and found.secret:
        return found
    raise RefusedError(
        "bad_config",
        "the job has no credentials for AWS",
        "run the step where its job has a role (SageMaker, EKS Pod Identity), or keep the secret in a "
        "connection of Airflow; a step on the worker's host can use AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY of its environment",
    )


def _from_endpoint(url: str, environment: Mapping[str, str]) -> Keys:
    from urllib.parse import urlsplit
    from urllib.request import Request

    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _PLAIN_HOSTS):
        summary = f"AWS_CONTAINER_CREDENTIALS_FULL_URI leads to {parts.scheme}://{parts.hostname}"
        raise RefusedError("bad_config", summary, "it must be https, or an address of this machine or of AWS")
    token = _token(environment)
    request = Request(url, headers={"Authorization": token} if token else {})  # noqa: S310 - checked above
    status = 200
    try:
        status, data = ask(lambda: request, is_direct=True)
        found = json.loads(data) if status == 200 else {}
        return Keys(*(str(found[name]) for name in ("AccessKeyId", "SecretAccessKey", "Token")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem: object = f"{type(error).__name__}: {error}" if status == 200 else f"HTTP {status}"
        where = f"{parts.scheme}://{parts.netloc}"  # its path may be secret
        hint = "the job needs a role; with network isolation a job has none"
        raise RefusedError("infra", f"{where} gives no credentials of the role: {problem}", hint) from None


def _token(environment: Mapping[str, str]) -> str:
    """Return the token that the endpoint of the credentials wants; an empty text if it wants none."""
    path = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if not path:
        return environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "").strip()
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError as error:
        summary = f"the token for the credentials of the role cannot be read: {error}"
        raise RefusedError("infra", summary) from None


def endpoint(reference: Reference, environment: Mapping[str, str]) -> str:
    """Return the address of the service in the region of the secret.

    :raises RefusedError: a variable names another one, which is none
    """
    for name in ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"):
        url = environment.get(name, "")
        if url and not url.startswith(("http://", "https://")):
            raise RefusedError("bad_config", f"{name} is {url!r}, and no address", "write https://...")
        if url:
            return url
    domain = "amazonaws.com.cn" if reference.partition == "aws-cn" else "amazonaws.com"
    return f"https://secretsmanager.{reference.region}.{domain}"


# -- requests


def signed(url: str, region: str, body: bytes, keys: Keys, at: float) -> Request:
    """Return a request with a signature of version 4.

    :param at: time of the signature, in seconds since 1970
    """
    import hashlib
    import hmac
    from urllib.parse import quote, urlsplit
    from urllib.request import Request

    parts = urlsplit(url)
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    host = parts.netloc[: -len(default_port)] if parts.netloc.endswith(default_port) else parts.netloc
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": host,
        "x-amz-date": stamp,
        "x-amz-target": TARGET,
    }
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    path = quote(parts.path or "/", safe="/-_.~%")
    canonical = "\n".join(["POST", path, "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{region}/secretsmanager/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return Request(f"{parts.scheme}://{parts.netloc}{path}", data=body, headers=headers)  # noqa: S310 - http(s)


def _is_later(status: int, body: bytes) -> bool:
    """Return whether an error is transient although its status is below 500."""
    return status == 400 and _error_of(body)[0] in _LATER_CODES


def _error_of(body: bytes) -> tuple[str, str]:
    """Return code and message of an error that the service answered."""
    try:
        told = json.loads(body)
        code, message = told.get("__type"), told.get("message") or told.get("Message")
    except (ValueError, AttributeError):
        code = message = None
    return str(code or "").rpartition("#")[2], str(message or "")
