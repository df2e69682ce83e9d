"""Where an S3 store's credentials, region and endpoint come from, and the errors when they are wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import pytest

from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.stores import obstore_calls
from airflow_stepop.stores.configured import configured_store, locate, open_store


@pytest.fixture
def bucket_server(s3_server):
    """Of the kinds of servers, this one."""
    return s3_server


def works(store):
    assert store.put_new("x", b"1")
    assert store.read("x", 1) == b"1"
    store.delete_folder("")
    return True


def test_keys_in_login_or_extra(connect, s3_server):
    assert works(connect())
    keys = {"aws_access_key_id": s3_server.key, "aws_secret_access_key": s3_server.secret}
    assert works(connect(keys, login="", password=""))


def test_the_endpoint_of_the_service_comes_before_that_of_the_connection(connect, s3_server):
    service = {"s3": {"endpoint_url": s3_server.endpoint}}
    assert works(connect({"endpoint_url": "http://127.0.0.1:1", "service_config": service}))


def test_keys_of_the_environment_do_not_mix_with_those_of_the_connection(connect, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert works(connect())


def test_without_a_connection_the_environment_counts(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    address = s3_server.new_address().replace(f"{s3_server.conn_id}@", "")
    assert works(open_store(address))


def test_aws_default_is_used_when_there_is_one(s3_server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3_server.connection())
    address = s3_server.new_address().replace(f"{s3_server.conn_id}@", "")
    assert works(open_store(address))


def test_the_connection_is_not_part_of_the_name(connect, s3_server, monkeypatch):
    """References stay valid when the connection changes, and a task may leave it out."""
    store = connect()
    assert "@" not in store.url
    assert locate(store.uri("a/b")) == (store, "a/b")
    assert configured_store(store.url) is store
    assert configured_store(store.url + "/") is store
    with pytest.raises(StepConfigError, match="is not configured"):
        configured_store(store.url.replace("s3://", "s3://other@"))


@pytest.mark.parametrize(
    "call", [lambda s: s.put_new("x", b"1"), lambda s: s.read("x", 1), lambda s: [*s.list("")]]
)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "wrong"}, "SignatureDoesNotMatch.*Correct the keys of the connection stepop_tests_"),
        ({"login": "nobody"}, "access key ID.*Correct the keys of the connection stepop_tests_"),
    ],
)
def test_wrong_credentials(connect, call, changes, words):
    store = connect(**changes)
    begun = time.monotonic()
    with pytest.raises(StoreError, match=words) as error:
        call(store)
    assert "Canonical" not in str(error.value), "the request is nobody's business"
    assert "s3://steps/" in str(error.value)
    assert time.monotonic() - begun < obstore_calls.RETRY_LIMIT_S / 2, (
        "asking again, which cannot help, takes longer"
    )


def test_a_bucket_that_does_not_exist(connect):
    store = open_store(f"s3://{connect().conn_id}@{'x' * 20}/prefix")
    with pytest.raises(StoreError, match=r"NoSuchBucket.*Create the bucket"):
        store.put_new("x", b"1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conn_type": "http"}, "is of type 'http'; an s3:// store needs one of type aws"),
        ({"extra": "{not json"}, "is not a JSON object; correct it"),
        ({"extra": "[1]"}, "is not a JSON object; correct it"),
        ({"extra": '{"verify": "/no/such.pem"}'}, "the certificates for the store cannot be read"),
    ],
)
def test_connections_that_cannot_be_used(monkeypatch, changes, words):
    fields = {"conn_type": "aws", "login": "key", "password": "secret", **changes}
    monkeypatch.setenv("AIRFLOW_CONN_STEPOP_TESTS_BAD", json.dumps(fields))
    with pytest.raises(StepConfigError, match=words):
        open_store(f"s3://stepop_tests_bad@bucket/{time.time_ns()}").put_new("x", b"")


def test_a_connection_that_does_not_exist():
    with pytest.raises(StepConfigError, match="connection 'nowhere' does not exist; add one of type aws"):
        open_store("s3://nowhere@bucket/x").put_new("x", b"")


def test_no_credentials_at_all(monkeypatch, provider):
    """The environment has no credentials, and no cloud gives this machine any."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StepConfigError, match="add keys or a role to the connection aws_default"):
        open_store("s3://bucket/prefix").put_new("x", b"")


def test_an_endpoint_that_nobody_answers_at(connect, monkeypatch):
    monkeypatch.setattr(obstore_calls, "RETRY_LIMIT_S", 1.0)
    store = connect({"endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(StoreError, match="Check endpoint_url and region_name"):
        store.put_new("x", b"")


# -- credentials that expire


def test_signatures_with_keys_never_end(connect):
    assert connect().signature_end(0) == math.inf


def test_the_end_of_a_session_token_is_unknown(connect):
    assert connect({"aws_session_token": "token"}).signature_end(0) is None


@pytest.mark.filterwarnings("ignore")  # warnings of the provider
def test_a_role_is_assumed_and_its_end_is_known(assumed, sts):
    store = assumed(DurationSeconds=7200)
    # the server accepts no tokens, so the token was sent
    with pytest.raises(StoreError, match="InvalidToken"):
        store.put_new("x", b"1")
    assert sts.asked[0]["RoleArn"] == "arn:aws:iam::1:role/stepop"
    end = store.signature_end(time.time() + 3600)
    assert abs(end - time.time() - 7200) < 60
    assert len(sts.asked) == 1, "it lasts long enough"
    store.signature_end(time.time() + 10_000)
    assert len(sts.asked) == 2, "and is renewed when it does not"


def test_a_role_without_the_amazon_provider(s3_server):
    """Run in a process that cannot import the provider."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("boto3", "botocore") or name.startswith("airflow.providers.amazon.aws"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from airflow_stepop.stores.configured import open_store
try:
    open_store("s3://c@steps/x").put_new("x", b"")
except Exception as error:
    print(type(error).__name__, error)
"""
    env = {**os.environ, "AIRFLOW_CONN_C": s3_server.connection({"role_arn": "arn:aws:iam::1:role/r"})}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (
        "StepConfigError the store's connection 'c' has role_arn, which needs the Amazon provider"
        in done.stdout
    )
    assert "pip install 'airflow-stepop[s3]'" in done.stdout
