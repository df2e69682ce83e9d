"""Secrets of AWS Secrets Manager are read with the standard library, as botocore would read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_stepop.runner import aws_secrets, cloud_api
from airflow_stepop.runner.aws_secrets import Keys, Reader, Reference, endpoint, parse, signed
from airflow_stepop.runner.failures import RefusedError
from airflow_stepop.runner.secret_references import check_reference, read_references
from tests.support.secrets_service import Service

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:team/hf-AbCdEf"
VALUE = "never-in-a-message"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(cloud_api, "FIRST_PAUSE_S", 0.001)
    found = Service()
    yield found
    found.close()


def text(value: str = VALUE) -> tuple[int, Any]:
    return 200, {"ARN": ARN, "SecretString": value}


def refused(service: Service, reference: str = ARN) -> RefusedError:
    """Return the error of a read; no part of it has a value."""
    with pytest.raises(RefusedError) as caught:
        Reader(service.environment).read(reference)
    assert VALUE not in f"{caught.value.summary} {caught.value.hint}"
    return caught.value


# -- the form of a reference


@pytest.mark.parametrize(
    ("end", "parts"),
    [
        ("", ("", "", "")),
        (":password", ("password", "", "")),
        (":password::", ("password", "", "")),
        (":::", ("", "", "")),
        ("::AWSPREVIOUS:", ("", "AWSPREVIOUS", "")),
        ("::AWSPREVIOUS", ("", "AWSPREVIOUS", "")),
        (":a b::1234", ("a b", "", "1234")),
    ],
)
def test_the_parts_are_those_of_ecs(end: str, parts: tuple[str, str, str]) -> None:
    assert parse(ARN + end) == Reference(ARN, "aws", "eu-west-1", *parts)


@pytest.mark.parametrize(
    "reference",
    [
        "arn:aws:ssm:eu-west-1:111122223333:parameter/hf",
        "arn:aws:secretsmanager:eu-west-1:111122223333:hf",
        "arn:aws:secretsmanager::111122223333:secret:hf",
        "arn:aws:secretsmanager:eu-west-1:1111:secret:hf",
        f"{ARN}:a:b:c:d",
        f"{ARN}\n",
        f"{ARN}::AWSCURRENT:1234",
    ],
)
def test_another_text_is_refused_with_an_example(reference: str) -> None:
    with pytest.raises(ValueError, match="; write ") as caught:
        check_reference(reference)
    assert repr(reference) in str(caught.value)


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws", "eu-west-1", "secretsmanager.eu-west-1.amazonaws.com"),
        ("aws-cn", "cn-north-1", "secretsmanager.cn-north-1.amazonaws.com.cn"),
        ("aws-us-gov", "us-gov-west-1", "secretsmanager.us-gov-west-1.amazonaws.com"),
    ],
)
def test_the_address_is_that_of_the_sdk(partition: str, region: str, host: str) -> None:
    botocore_session = pytest.importorskip("botocore.session")

    found = endpoint(parse(f"arn:{partition}:secretsmanager:{region}:111122223333:secret:hf"), {})
    client = botocore_session.get_session().create_client("secretsmanager", region)
    assert found == f"https://{host}" == client.meta.endpoint_url
    client.close()


# -- the request


@pytest.mark.parametrize("token", ["", "to/ken+="])
@pytest.mark.parametrize(
    "url", ["https://secretsmanager.eu-west-1.amazonaws.com", "http://localhost:5000/base", "https://h:443/"]
)
def test_the_signature_is_that_of_botocore(url: str, token: str) -> None:
    pytest.importorskip("botocore")
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    keys, body = Keys("AKIDEXAMPLE", "wJalrXUt/+EXAMPLE", token), json.dumps({"SecretId": ARN}).encode()
    mine = signed(url, "eu-west-1", body, keys, 1_700_000_000.5)
    names = ("content-type", "x-amz-target")
    headers = {name: mine.get_header(name.capitalize()) for name in names}
    other = AWSRequest("POST", mine.full_url, headers, body)
    other.context["timestamp"] = "20231114T221320Z"
    if token:
        other.headers["X-Amz-Security-Token"] = token
    auth = SigV4Auth(Credentials(keys.key, keys.secret, token or None), "secretsmanager", "eu-west-1")
    other.headers["X-Amz-Date"] = other.context["timestamp"]
    canonical = auth.canonical_request(other)
    signature = auth.signature(auth.string_to_sign(other, canonical), other)
    authorization = str(mine.get_header("Authorization"))
    assert mine.get_header("X-amz-date") == "20231114T221320Z"
    assert f"SignedHeaders={auth.signed_headers(auth.headers_to_sign(other))}," in authorization
    assert authorization.endswith(f"Signature={signature}")


def test_a_value_is_read_with_the_credentials_of_the_role(service: Service) -> None:
    service.answers = [text()]
    environment = {**service.environment, "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}
    assert Reader(environment).read(ARN) == VALUE
    (_, path, _, _), (_, _, headers, body) = service.requests
    assert path == "/role"
    assert headers["x-amz-target"] == "secretsmanager.GetSecretValue"
    assert headers["x-amz-security-token"] == "T"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=K/")
    assert json.loads(body) == {"SecretId": ARN}


def test_a_secret_with_several_keys_is_read_once(service: Service) -> None:
    service.answers = [text('{"user": "me", "password": "it", "port": 5432}'), text("old")]
    reader = Reader(service.environment)
    assert [reader.read(f"{ARN}:{key}::") for key in ("user", "password", "port")] == ["me", "it", "5432"]
    assert reader.read(f"{ARN}::AWSPREVIOUS:") == "old"
    assert [method for method, *_ in service.requests] == ["GET", "POST", "POST"]
    assert json.loads(service.requests[-1][3]) == {"SecretId": ARN, "VersionStage": "AWSPREVIOUS"}


def test_a_token_for_the_credentials_is_sent(service: Service, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    service.answers = [text()]
    environment = {**service.environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token")}
    assert Reader(environment).read(ARN) == VALUE
    assert service.requests[0][2]["authorization"] == "of-the-file"


def test_keys_of_the_environment_serve_a_job_without_a_role(service: Service) -> None:
    service.answers = [text()]
    keys = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "s"}
    environment = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": service.url, **keys}
    assert Reader(environment).read(ARN) == VALUE
    assert "Credential=mine/" in service.requests[0][2]["authorization"]
    assert "x-amz-security-token" not in service.requests[0][2]


def test_trouble_that_passes_is_waited_for(service: Service) -> None:
    service.answers = [
        (500, b"<html>"),
        (400, {"__type": "com.amazonaws#ThrottlingException", "Message": "Rate exceeded"}),
        (429, b""),
        text(),
    ]
    assert Reader(service.environment).read(ARN) == VALUE


# -- errors


def test_a_denial_names_the_statement_that_is_missing(service: Service) -> None:
    said = (
        f"User: arn:aws:sts::1:assumed-role/r/SageMaker is not authorized to perform: ... on resource: {ARN}"
    )
    service.answers = [(400, {"__type": "AccessDeniedException", "Message": said})]
    error = refused(service, f"{ARN}:key::")
    assert (error.category, error.summary) == ("denied", said)
    allow = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": ARN}
    assert f"give the role of the job {json.dumps(allow)}" in error.hint


@pytest.mark.parametrize(
    ("answer", "category", "words"),
    [
        (
            (400, {"__type": "ResourceNotFoundException", "Message": "can't find the specified secret."}),
            "bad_config",
            f"{ARN} or its version does not exist in eu-west-1: can't find the specified secret.",
        ),
        (
            (400, {"__type": "InvalidRequestException", "message": "marked for deletion"}),
            "bad_config",
            "marked",
        ),
        ((302, b""), "bad_config", "HTTP 302"),
        ((200, {"SecretBinary": "AAAA"}), "bad_config", "holds bytes"),
        ((200, b"no json"), "infra", "its answer is no JSON object"),
    ],
)
def test_what_the_service_refuses(service: Service, answer: Any, category: str, words: str) -> None:
    service.answers = [answer]
    error = refused(service)
    assert error.category == category
    assert words in error.summary


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (VALUE, "is no JSON object"),
        (f'["{VALUE}"]', "is no JSON object"),
        (f'{{"other": "{VALUE}"}}', "has no key 'key'"),
        (f'{{"key": ["{VALUE}"]}}', "has no text or number under the key 'key'"),
    ],
)
def test_a_key_that_is_not_there(service: Service, value: str, words: str) -> None:
    service.answers = [text(value)]
    assert words in refused(service, f"{ARN}:key::").summary


def test_no_way_to_the_service_says_what_a_vpc_needs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_api, "RETRY_LIMIT_S", 0.0)
    environment = {**service.environment, "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://127.0.0.1:1"}
    with pytest.raises(RefusedError, match=r"http://127\.0\.0\.1:1 cannot be reached: .*refused") as caught:
        Reader(environment).read(ARN)
    assert caught.value.category == "infra"
    assert "com.amazonaws.eu-west-1.secretsmanager" in caught.value.hint


def test_a_service_that_stays_busy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_api, "RETRY_LIMIT_S", 0.0)
    service.answers = [(503, b"")]
    error = refused(service)
    assert (error.category, error.summary) == ("infra", "AWS Secrets Manager is not available: HTTP 503")


@pytest.mark.parametrize(
    ("changes", "category", "words"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": ""}, "bad_config", "the job has no credentials for AWS"),
        (
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/role"},
            "bad_config",
            "leads to http://example.com",
        ),
        ({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/nowhere"}, "infra", "/nowhere"),
        ({"AWS_ENDPOINT_URL_SECRETS_MANAGER": "localhost"}, "bad_config", "is 'localhost', and no address"),
        ({"AWS_CA_BUNDLE": "/nowhere"}, "infra", "No such file"),
    ],
)
def test_what_the_environment_lacks(
    service: Service, changes: dict[str, str], category: str, words: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        Reader({**service.environment, **changes}).read(ARN)
    assert caught.value.category == category
    assert words in caught.value.summary


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b""), "HTTP 404"),
        ((200, b"{}"), "AccessKeyId"),
        ((200, b"[]"), "TypeError"),
        ((200, b"x"), "Expecting"),
    ],
)
def test_an_endpoint_without_credentials(service: Service, answer: Any, words: str) -> None:
    service.keys = answer
    error = refused(service)
    assert error.category == "infra"
    assert f"{service.url} gives no credentials of the role: " in error.summary
    assert words in error.summary
    assert "/role" not in error.summary


@pytest.mark.parametrize(("value", "words"), [("", "is empty"), (f"{VALUE}\0", "contains a NUL")])
def test_a_value_that_no_variable_can_hold(
    service: Service, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    for name, one in service.environment.items():
        monkeypatch.setenv(name, one)
    service.answers = [text(value)]
    with pytest.raises(RefusedError) as caught:
        read_references({"TOKEN": ARN})
    assert f"the secret 'TOKEN' cannot be read: the value of {ARN} {words}" in caught.value.summary
    assert VALUE not in caught.value.summary


def test_the_service_of_a_reference_is_a_feature_of_the_zipapp() -> None:
    from airflow_stepop.hooks.common.zipapp import OPTIONAL
    from airflow_stepop.runner.secret_references import SERVICES

    assert set(SERVICES.values()) <= set(OPTIONAL)
    assert aws_secrets.parse(aws_secrets.EXAMPLE)


# -- the runner


def test_a_step_gets_it_and_its_log_does_not(folder: Any, service: Service, any_python: str) -> None:
    service.answers = [text()]
    step = folder.command("sh", "-c", f'test "$TOKEN" = {VALUE} && echo "<$TOKEN>"')
    step.set(secrets=["TOKEN"], secret_references={"TOKEN": ARN})
    done = step.run(any_python, env={"PATH": "/usr/bin:/bin", **service.environment})
    assert (done.code, done.stdout) == (0, "<***>\n"), done.stderr


def test_a_step_without_its_secret_does_not_start(folder: Any, service: Service) -> None:
    service.answers = [(400, {"__type": "AccessDeniedException", "Message": "no"})]
    step = folder.command("sh", "-c", "echo started")
    step.set(secrets=["TOKEN"], secret_references={"TOKEN": ARN})
    done = step.run(env={"PATH": "/usr/bin:/bin", **service.environment})
    assert done.code == 64
    assert "started" not in done.stdout
    assert done.failure["category"] == "denied"
    assert done.failure["summary"] == "The step was not started: the secret 'TOKEN' cannot be read: no"
    assert ARN in done.failure["hint"]
