"""The emulator of Cloud Storage checks tokens, permissions and signatures; and its faults."""

from __future__ import annotations

import base64
import http.client
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from tests.emulators.gcs.accounts import CLOUD_SCOPE
from tests.support.gcs import Gcs
from tests.unit.emulators.gcs_client import Client


@pytest.fixture(autouse=True)
def stored(storage: Client) -> None:
    assert storage("PUT", "/steps/x", b"data").status == 200


# -- tokens and permissions


def test_who_may_do_what(storage: Client, gcs: Gcs) -> None:
    may = gcs.account.permissions
    may -= {"storage.objects.delete"}
    assert storage("PUT", "/steps/x", b"2").status == 403, "to replace an object is to delete the old one"
    assert storage("PUT", "/steps/new", b"2").status == 200
    may -= {"storage.objects.list"}
    gone = storage("GET", "/steps/gone")
    assert gone.status == 403, "who may not list is not told what is there"
    assert "does not have storage.objects.list access" in gone.details
    may.clear()
    denied = storage("GET", "/steps/x")
    assert denied.code == "AccessDenied"
    assert denied.details.startswith(f"{gcs.account.email} does not have storage.objects.get access")


def test_anonymous_callers_read_what_is_public(gcs: Gcs) -> None:
    nobody = Client(gcs)
    assert nobody("GET", "/steps/x").details.startswith("Anonymous caller does not have")
    gcs.world.buckets.find("steps").is_public = True
    assert nobody("GET", "/steps/x").body == b"data"
    assert nobody("PUT", "/steps/y", b"1").status == 403


def test_scopes_limit_a_token(storage: Client) -> None:
    reader = storage.token("https://www.googleapis.com/auth/devstorage.read_only")
    assert storage("GET", "/steps/x", Authorization=f"Bearer {reader}").status == 200
    written = storage("PUT", "/steps/y", b"1", Authorization=f"Bearer {reader}")
    assert (written.status, written.details) == (403, "Provided scope(s) are not authorized")


@pytest.mark.parametrize("header", ["Bearer", "Bearer none", "Basic x", "Bearer a.b.c"])
def test_tokens_that_are_none(storage: Client, header: str) -> None:
    assert storage("GET", "/steps/x", Authorization=header).status == 401


def test_tokens_expire_and_are_revoked(storage: Client, gcs: Gcs) -> None:
    token, seconds = gcs.world.accounts.issue(gcs.world.accounts.caller_of(f"Bearer {storage.token()}"), -1.0)
    assert seconds == -1.0
    assert storage("GET", "/steps/x", Authorization=f"Bearer {token}").status == 401
    token = storage.token()
    gcs.world.accounts.revoke_all()
    assert storage("GET", "/steps/x", Authorization=f"Bearer {token}").status == 401


def jwt_of(gcs: Gcs, **claims: object) -> str:
    now, email = int(time.time()), gcs.account.email
    return jwt.encode(
        {"iss": email, "sub": email, "iat": now, "exp": now + 3600, **claims}, gcs.account.key, "RS256"
    )


def test_self_signed_tokens(storage: Client, gcs: Gcs) -> None:
    for claims in ({"scope": CLOUD_SCOPE}, {"aud": "https://storage.googleapis.com/"}):
        assert storage("GET", "/steps/x", Authorization=f"Bearer {jwt_of(gcs, **claims)}").status == 200
    wrong = ({"aud": "https://other/"}, {"exp": int(time.time()) + 9000}, {"iss": "other"}, {"exp": 1})
    for claims in wrong:
        assert storage("GET", "/steps/x", Authorization=f"Bearer {jwt_of(gcs, **claims)}").status == 401


def test_the_token_endpoint(storage: Client, gcs: Gcs) -> None:
    kind = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"

    def ask(**claims: object):
        form = f"grant_type={kind}&assertion={jwt_of(gcs, **claims)}"
        return storage.send("POST", "/token", form.encode())

    token = ask(aud=f"{gcs.endpoint}/token", scope=CLOUD_SCOPE).json["access_token"]
    assert storage("GET", "/steps/x", Authorization=f"Bearer {token}").status == 200
    refused = ask(aud="https://other/", scope=CLOUD_SCOPE)
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")


def test_the_metadata_server(storage: Client, gcs: Gcs) -> None:
    place = "/computeMetadata/v1/instance/service-accounts/default"
    assert storage.send("GET", f"{place}/token").status == 404, "the host is none of Google's"
    gcs.world.metadata = gcs.account
    assert storage.send("GET", f"{place}/token").status == 403
    flavor = {"Metadata-Flavor": "Google"}
    token = storage.send("GET", f"{place}/token", headers=flavor).json["access_token"]
    assert storage("GET", "/steps/x", Authorization=f"Bearer {token}").status == 200
    assert storage.send("GET", f"{place}/?recursive=true", headers=flavor).json["email"] == gcs.account.email


def test_impersonation_needs_a_grant_for_each_account_of_the_chain(storage: Client, gcs: Gcs) -> None:
    middle, last = gcs.world.accounts.add("middle"), gcs.world.accounts.add("last")
    body = b'{"scope": ["%s"], "delegates": ["projects/-/serviceAccounts/%s"]}'
    body %= (CLOUD_SCOPE.encode(), middle.email.encode())
    path = f"/v1/projects/-/serviceAccounts/{last.email}:generateAccessToken"
    last.token_creators.add(middle.email)
    refused = storage("POST", path, body)
    assert (refused.status, refused.json["error"]["status"]) == (403, "PERMISSION_DENIED")
    middle.token_creators.add(gcs.account.email)
    token = storage("POST", path, body).json["accessToken"]
    assert gcs.world.accounts.caller_of(f"Bearer {token}").account is last


def test_the_permissions_of_a_caller(storage: Client) -> None:
    names = ("storage.objects.get", "storage.buckets.get")
    query = "&".join(f"permissions={name}" for name in names)
    path = f"/storage/v1/b/steps/iam/testPermissions?{query}"
    found = storage.send("GET", path, headers={"Authorization": f"Bearer {storage.token()}"}).json
    assert found["permissions"] == ["storage.objects.get"]


# -- signatures


def test_signed_addresses_need_no_token(storage: Client) -> None:
    assert storage.send("GET", storage.signed("GET", "/steps/x")).body == b"data"
    assert storage.send("PUT", storage.signed("PUT", "/steps/ü"), b"1", {"Content-Type": "a/b"}).status == 200
    assert storage("GET", "/steps/ü").body == b"1"


def test_a_signature_is_for_one_request(storage: Client) -> None:
    url = storage.signed("GET", "/steps/x")
    for changed in (
        url.replace("/steps/x", "/steps/y"),
        url.replace("Expires=60", "Expires=61"),
        url + "&a=b",
    ):
        refused = storage.send("GET", changed)
        assert (refused.status, refused.code) == (403, "SignatureDoesNotMatch")
    assert storage.send("PUT", url, b"1").status == 403
    assert storage.send("GET", url, headers={"Host": "storage.googleapis.com"}).status == 403
    assert storage.send("GET", url[:-2] + ("00" if url[-2:] != "00" else "11")).status == 403


def test_a_signature_expires(storage: Client, gcs: Gcs) -> None:
    url = storage.signed("GET", "/steps/x")
    gcs.world.skew = timedelta(seconds=61)
    late = storage.send("GET", url)
    assert (late.status, late.code) == (400, "ExpiredToken")
    assert "Request signature expired at" in late.details
    gcs.world.skew = timedelta(hours=-1)
    assert storage.send("GET", url).code == "RequestTimeTooSkewed"


@pytest.mark.parametrize("expires", ["0", "604801", "-1", "abc"])
def test_a_signature_lasts_for_a_week_at_most(storage: Client, expires: str) -> None:
    assert storage.send("GET", storage.signed("GET", "/steps/x", expires=expires)).status == 400
    assert storage.send("GET", storage.signed("GET", "/steps/x", expires="604800")).status == 200


def test_headers_of_the_service_must_be_signed(storage: Client) -> None:
    once = {"x-goog-if-generation-match": "0"}
    unsigned = storage.send("PUT", storage.signed("PUT", "/steps/y"), b"1", once)
    assert unsigned.code == "MalformedSecurityHeader"
    url = storage.signed("PUT", "/steps/y", headers=once)
    assert storage.send("PUT", url, b"1").code == "MalformedSecurityHeader"
    assert storage.send("PUT", url, b"1", {"x-goog-if-generation-match": "1"}).code == "SignatureDoesNotMatch"
    assert storage.send("PUT", url, b"1", once).status == 200
    assert storage.send("PUT", url, b"1", once).status == 412


def test_the_account_that_has_signed_counts(storage: Client, gcs: Gcs) -> None:
    other = gcs.world.accounts.add("other")
    other.permissions.clear()
    refused = storage.send("GET", storage.signed("GET", "/steps/x", account=other))
    assert (refused.status, refused.code) == (403, "AccessDenied")
    long_ago = datetime.now(UTC) - timedelta(days=8)
    assert storage.send("GET", storage.signed("GET", "/steps/x", at=long_ago)).code == "ExpiredToken"


def test_signatures_of_the_service_itself(storage: Client, gcs: Gcs) -> None:
    path = f"/v1/projects/-/serviceAccounts/{gcs.account.email}:signBlob"
    body = b'{"payload": "%s"}' % base64.b64encode(b"text")
    assert storage("POST", path, body).status == 403, "an account may not act as itself by itself"
    gcs.account.token_creators.add(gcs.account.email)
    found = storage("POST", path, body).json
    assert gcs.account.has_signed(b"text", base64.b64decode(found["signedBlob"]))


# -- faults


def test_faults_come_as_often_as_was_said(storage: Client, gcs: Gcs) -> None:
    gcs.world.faults.add("unavailable", "GET object", count=2)
    gcs.world.faults.add("throttle", "PUT object")
    assert [storage("GET", "/steps/x").status for _ in range(3)] == [503, 503, 200]
    assert [storage("PUT", "/steps/x", b"1").status for _ in range(2)] == [429, 200]


def test_an_answer_is_lost_after_the_request_was_done(storage: Client, gcs: Gcs) -> None:
    gcs.world.faults.add("lost", "PUT object", after=True)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        storage("PUT", "/steps/new", b"1")
    assert storage("GET", "/steps/new").body == b"1"


def test_who_does_not_pay(storage: Client, gcs: Gcs) -> None:
    gcs.world.buckets.find("steps").requester_pays = True
    assert storage("GET", "/steps/x").code == "UserProjectMissing"
    assert storage("GET", "/steps/x", x_goog_user_project="mine").status == 200
    url = storage.signed("GET", "/steps/x", query={"userProject": "mine"})
    assert storage.send("GET", url).status == 200
