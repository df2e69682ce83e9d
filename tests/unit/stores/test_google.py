"""Where the credentials, the project and the addresses of a gs:// store come from, and the errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.connections.google import GoogleConnection
from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import configured_store, locate, open_store
from tests.support.gcs import Gcs, gcs_emulator

Connect = Callable[..., BucketStore]
TYPE = "google_cloud_platform"
READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    with gcs_emulator() as server:
        yield server


@pytest.fixture
def bucket_server(gcs: Gcs) -> Gcs:
    """Of the kinds of servers, this one."""
    return gcs


def works(store: Any) -> bool:
    assert store.put_new("x", b"1")
    assert store.read("x", 1) == b"1"
    store.delete_folder("")
    return True


def without_connection(gcs: Gcs) -> str:
    return gcs.new_address().replace(f"{gcs.conn_id}@", "")


# -- who the caller is


def test_a_key_as_an_object_a_text_or_a_file(gcs: Gcs, connect: Connect, tmp_path: Path) -> None:
    text = json.dumps(gcs.key_file())
    (tmp_path / "key.json").write_text(text)
    assert works(connect({"keyfile_dict": text}))
    assert works(connect({"keyfile_dict": None, "key_path": f"{tmp_path}/key.json"}))
    assert works(connect({"keyfile_dict": None, "extra__google_cloud_platform__keyfile_dict": text}))
    escaped = gcs.key_file()
    escaped["private_key"] = escaped["private_key"].replace("\n", "\\n")
    assert works(connect({"keyfile_dict": escaped})), "as some forms escape it"


def test_google_cloud_default_is_used_when_there_is_one(gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", gcs.connection())
    assert works(open_store(without_connection(gcs)))


def test_without_a_connection_the_environment_counts(
    gcs: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key.json").write_text(json.dumps(gcs.key_file()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/key.json")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint.removeprefix("http://"))
    assert works(open_store(without_connection(gcs)))


def test_the_environment_does_not_mix_with_the_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BEARER_TOKEN", "GOOGLE_BUCKET"):
        monkeypatch.setenv(name, "other")
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert works(connect())


@pytest.mark.parametrize("as_list", [False, True])
def test_an_impersonation_chain(gcs: Gcs, connect: Connect, as_list: bool) -> None:
    middle, last = gcs.world.accounts.add("middle"), gcs.world.accounts.add("last")
    middle.token_creators.add(gcs.account.email)
    last.token_creators.add(middle.email)
    gcs.account.permissions.clear()
    chain = [middle.email, last.email]
    store = connect({"impersonation_chain": chain if as_list else ", ".join(chain)})
    assert works(store)
    (url,) = store.sign("GET", ["x"], time.time() + 60)
    assert last.email.replace("@", "%40") in url
    last.token_creators.clear()
    with pytest.raises(
        StepConfigError, match=r"getAccessToken' denied .*must grant roles/iam.serviceAccountTok"
    ):
        connect({"impersonation_chain": chain}).put_new("x", b"1")


def test_application_default_credentials_of_a_user(
    gcs: Gcs, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of gcloud. They are of no service account, so they cannot sign addresses."""
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "adc.json").write_text(json.dumps(user))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/adc.json")
    identity = GoogleConnection(None, owner="the store", need="a gs:// store").identity()
    with pytest.raises(
        StepConfigError, match="those of none: give the connection a key, or an impersonation"
    ):
        identity.email()


def test_an_external_account_is_configured_by_a_file(
    gcs: Gcs, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity federation: its token comes from another provider, and stands for an account."""
    (tmp_path / "token").write_text("of another provider")
    account = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{gcs.account.email}"
    config = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url": f"{account}:generateAccessToken",
        "credential_source": {"file": f"{tmp_path}/token"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for given in (f"{tmp_path}/config.json", json.dumps(config), config):
        extra = {"credential_config_file": given}
        fields = {"conn_type": "google_cloud_platform", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_FEDERATED", json.dumps(fields))
        found = GoogleConnection("federated", owner="the store", need="a gs:// store").identity()
        assert found.email() == gcs.account.email


MACHINE = """
import sys, time, urllib.request
from airflow_stepop.stores.configured import open_store
store = open_store(sys.argv[1])
store.put_new("x", b"1")
(url,) = store.sign("GET", ["x"], time.time() + 60)
print(urllib.request.urlopen(url).read().decode(), store.signature_end(0) - time.time() > 40000)
"""


def test_the_identity_of_the_machine(gcs: Gcs, tmp_path: Path) -> None:
    """Workload identity of GKE and service accounts of machines: the metadata server gives the tokens."""
    gcs.world.metadata = gcs.account
    gcs.account.token_creators.add(gcs.account.email)
    extra = {"stepop": {"endpoints": {"storage": gcs.endpoint, "iamcredentials": gcs.endpoint}}}
    fields = {"conn_type": "google_cloud_platform", "extra": extra}
    place = gcs.endpoint.removeprefix("http://")
    done = run(
        MACHINE,
        gcs.new_address().replace(gcs.conn_id, "machine"),
        AIRFLOW_CONN_MACHINE=json.dumps(fields),
        GCE_METADATA_HOST=place,
        GCE_METADATA_IP=place,
        HOME=str(tmp_path),
        CLOUDSDK_CONFIG=str(tmp_path),
    )
    assert done.stdout.splitlines()[-1:] == ["1 True"], done.stderr[-3000:]


def test_an_anonymous_connection_reads_what_is_public(gcs: Gcs, connect: Connect) -> None:
    public = gcs.world.buckets.find(gcs.bucket)
    public.is_public = True
    connect().put_new("x", b"1")
    (name,) = public.objects
    fields = {"keyfile_dict": None, "is_anonymous": True}
    anonymous = open_store(f"gs://{connect(fields).conn_id}@{gcs.bucket}")
    assert anonymous.read(name, 1) == b"1"
    assert list(anonymous.list("")) == [name]
    with pytest.raises(StoreError, match=r"AuthenticationRequired.*a key instead of is_anonymous, which"):
        anonymous.put_new("y", b"1")
    with pytest.raises(StepConfigError, match="an anonymous connection cannot sign addresses"):
        anonymous.sign("GET", ["x"], time.time() + 60)


def test_scopes_are_those_of_the_connection(connect: Connect) -> None:
    assert works(connect({"scope": "https://www.googleapis.com/auth/devstorage.read_write, openid"}))
    with pytest.raises(StoreError, match=r"scope.s. are not authorized. Remove scope from the connection"):
        connect({"scope": READ_ONLY}).put_new("x", b"1")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, "test-project"),
        ({"project": "named"}, "named"),
        ({"impersonation_chain": "a@x.com,b@theirs.iam.gserviceaccount.com"}, "theirs"),
        ({"impersonation_chain": "1-compute@developer.gserviceaccount.com"}, "test-project"),
        ({"keyfile_dict": None}, "of-the-host"),
    ],
)
def test_the_project_of_the_caller(
    gcs: Gcs, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], expected: str
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-the-host")
    monkeypatch.setenv("AIRFLOW_CONN_G", gcs.connection(extra))
    assert GoogleConnection("g", owner="the store", need="a gs:// store").project == expected


def test_the_project_that_pays(gcs: Gcs, connect: Connect) -> None:
    import urllib.request

    gcs.world.buckets.find(gcs.bucket).requester_pays = True
    with pytest.raises(StoreError, match=r"UserProjectMissing.*Set quota_project_id in the connection"):
        connect().put_new("x", b"1")
    store = connect({"quota_project_id": "ours"})
    store.put_new("x", b"1")
    (url,) = store.sign("GET", ["x"], time.time() + 60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"1"


def test_the_connection_is_not_part_of_the_name(connect: Connect) -> None:
    """References stay valid when the connection changes, and a task may leave it out."""
    store = connect()
    assert "@" not in store.url
    assert locate(store.uri("a/b")) == (store, "a/b")
    assert configured_store(store.url) is store
    with pytest.raises(StepConfigError, match="is not configured"):
        configured_store(store.url.replace("gs://", "gs://other@"))


# -- connections that cannot be used


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"key_secret_name": "k"},
            "has key_secret_name, which a gs:// store cannot use: the key would have to",
        ),
        ({"idp_issuer_url": "https://x"}, "has idp_issuer_url, which a gs:// store cannot use"),
        ({"key_path": "/x", "is_anonymous": True}, "has key_path and is_anonymous; keep one of them"),
        ({"keyfile_dict": "{not json"}, "keyfile_dict is not JSON"),
        (
            {"keyfile_dict": {"private_key": "x"}},
            "is no key file of a service account: it has no client_email",
        ),
        (
            {"keyfile_dict": {"client_email": "a", "private_key": "x"}},
            "private_key is no RSA key in PEM form",
        ),
        (
            {"keyfile_dict": {"type": "external_account"}},
            "'external_account' and not .* as credential_config_",
        ),
        ({"key_path": "/no/such.json"}, "the file /no/such.json cannot be read"),
        ({"impersonation_chain": [1], "key_path": "/x"}, "the file /x cannot be read"),
        (
            {"stepop": {"endpoints": {"store": "https://x"}}},
            "'store'.*valid: storage, iamcredentials, aiplat",
        ),
        ({"stepop": {"endpoints": {"storage": "x:1"}}}, "storage='x:1' is no address .* write https://HOST"),
        ({"stepop": {"endpoints": {"storage": "https://x/y"}}}, "is no address of a service"),
        ({"stepop": {"endpoint": {}}}, "has 'endpoint', which is no default; did you mean 'endpoints'"),
    ],
)
def test_connections_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, extra: Any, words: str) -> None:
    fields = {"conn_type": "google_cloud_platform", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_STEPOP_TESTS_BAD", json.dumps(fields))
    with pytest.raises(StepConfigError, match=words) as caught:
        open_store(f"gs://stepop_tests_bad@bucket/{time.time_ns()}").put_new("x", b"")
    assert "stepop_tests_bad" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conn_type": "aws"}, "is of type 'aws'; a gs:// store needs one of type google_cloud_platform"),
        ({"extra": "[1]"}, "is not a JSON object; correct it"),
    ],
)
def test_connections_of_another_kind(monkeypatch: pytest.MonkeyPatch, changes: Any, words: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STEPOP_TESTS_BAD", json.dumps({"conn_type": TYPE, **changes}))
    with pytest.raises(StepConfigError, match=words):
        open_store(f"gs://stepop_tests_bad@bucket/{time.time_ns()}").put_new("x", b"")


def test_a_connection_that_does_not_exist() -> None:
    with pytest.raises(
        StepConfigError, match="'nowhere' does not exist; add one of type google_cloud_platform"
    ):
        open_store("gs://nowhere@bucket/x").put_new("x", b"")


def test_a_private_key_is_in_no_error(gcs: Gcs, connect: Connect) -> None:
    key = gcs.key_file()
    secret = key["private_key"].splitlines()[3]
    broken = key | {"private_key": key["private_key"].replace("BEGIN", "BEGAN")}
    with pytest.raises(StepConfigError) as caught:
        connect({"keyfile_dict": broken}).put_new("x", b"1")
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in str(error)
        error = error.__cause__ or error.__context__


# -- what is imported, and what need not be installed


def run(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("GOOGLE_")}
    return subprocess.run(
        [sys.executable, "-c", code, *args], env={**given, **env}, capture_output=True, text=True
    )


KEY_ONLY = """
import sys, time
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] in (["google", "auth"], ["google", "oauth2"], ["google", "cloud"]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from airflow_stepop.stores.configured import open_store
store = open_store(sys.argv[1])
try:
    store.put_new("x", b"1")
    print(store.read("x", 1), len(store.sign("GET", ["x"], time.time() + 60)))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, "bytearray(b'1') 1"),
        (
            {"impersonation_chain": "a@b"},
            "has an impersonation_chain, which needs google-auth: pip install 'air",
        ),
        ({"keyfile_dict": None}, "has no key, which needs google-auth: pip install 'airflow-stepop[gcs]'"),
    ],
)
def test_without_google_auth(gcs: Gcs, extra: dict[str, Any], words: str) -> None:
    """A key needs no further package."""
    done = run(KEY_ONLY, gcs.new_address().replace(gcs.conn_id, "c"), AIRFLOW_CONN_C=gcs.connection(extra))
    assert words in done.stdout, done.stdout + done.stderr[-2000:]
