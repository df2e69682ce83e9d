"""Stores in Cloud Storage: signatures, faults and pages, and what differs from other buckets."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_stepop.connections import google_identity
from airflow_stepop.connections.google_identity import KeyIdentity, parse_key
from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.job import Payload, StepSpec
from airflow_stepop.stores import obstore_calls, s3_listing
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.gcs import SignedRequest
from tests.emulators.gcs.buckets import new_object
from tests.support.gcs import Gcs, gcs_emulator

MIB = 1 << 20
Connect = Callable[..., BucketStore]


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    """An emulator that the test may change."""
    with gcs_emulator() as server:
        yield server


@pytest.fixture
def bucket_server(gcs: Gcs) -> Gcs:
    """Of the kinds of servers, this one."""
    return gcs


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    for module in (obstore_calls, google_identity):
        monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.001)


def send(method: str, url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given, method=method)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def until(seconds: float = 600.0) -> float:
    return time.time() + seconds


def impersonating(gcs: Gcs, connect: Connect, *, may_sign: bool = True) -> BucketStore:
    """Return a store whose connection impersonates an account, and so has no key of it."""
    target = gcs.world.accounts.add("target")
    if may_sign:
        target.token_creators.add(gcs.account.email)
    return connect({"impersonation_chain": target.email})


# -- signed addresses


def test_a_signature_is_that_of_obstore(gcs: Gcs, connect: Connect) -> None:
    """For the same request at the same time; obstore always signs for Google's own host."""
    import obstore.store

    store = connect()
    key = json.dumps(gcs.key_file())
    other = obstore.store.GCSStore(store.bucket, prefix=store.prefix, service_account_key=key)
    (theirs,) = obstore.sign(other, "GET", ["a/b cü"], timedelta(seconds=600))
    query = parse_qs(urlsplit(theirs).query)
    at = datetime.strptime(query["X-Goog-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    identity = KeyIdentity(parse_key(gcs.key_file(), "the test"), [])
    request = SignedRequest("GET", "https://storage.googleapis.com", at, 600, {})
    ours = request.url(store.bucket, f"{store.prefix}/a/b cü", identity, identity.email())
    assert parse_qs(urlsplit(ours).query) == query


@pytest.mark.parametrize("name", ["a", "a/b c%ü", "x?y=z&w#+", "~-._", "漢字/'()*!"])
@pytest.mark.parametrize("is_signed_by_the_service", [False, True])
def test_signed_addresses(gcs: Gcs, connect: Connect, name: str, is_signed_by_the_service: bool) -> None:
    store = impersonating(gcs, connect) if is_signed_by_the_service else connect()
    (put,) = store.sign("PUT", [name], until())
    assert send("PUT", put, b"first", Content_Type="application/octet-stream")[0] == 200
    assert send("PUT", put, b"second")[0] == 200, "it may be written again"
    (get,) = store.sign("GET", [name], until())
    assert send("GET", get) == (200, b"second")
    assert send("PUT", get, b"x")[0] == 403
    assert send("GET", get.replace("X-Goog-Expires=", "X-Goog-Expires=1"))[0] == 403
    assert bool(gcs.world.faults.asked["signBlob"]) is is_signed_by_the_service


def test_an_address_that_creates_an_object_and_replaces_none(connect: Connect) -> None:
    store = connect()
    (url,) = store.sign("PUT", ["x"], until(), is_new=True)
    headers = dict(store.put_headers(is_new=True))
    assert send("PUT", url, b"1")[0] == 400, "the header is part of the signature"
    assert send("PUT", url, b"1", **headers)[0] == 200
    assert send("PUT", url, b"2", **headers)[0] == 412
    assert store.read("x", 1) == b"1"


def test_the_addresses_of_a_bucket_without_a_prefix(gcs: Gcs, connect: Connect) -> None:
    store = open_store(f"gs://{connect().conn_id}@{gcs.bucket}")
    assert isinstance(store, BucketStore)
    store.put_new("x", b"1")
    (url,) = store.sign("GET", ["x"], until())
    assert send("GET", url) == (200, b"1")


def test_a_key_signs_for_a_week(connect: Connect) -> None:
    assert connect().signature_end(0) == math.inf
    (url,) = connect().sign("GET", ["x"], until(604_800))
    assert "X-Goog-Expires=604800" in url or "X-Goog-Expires=604799" in url


def test_without_a_key_signatures_last_for_twelve_hours(gcs: Gcs, connect: Connect) -> None:
    store = impersonating(gcs, connect)
    assert abs(store.signature_end(0) - until(12 * 3600)) < 60
    spec = StepSpec("s-x", "n", {}, result_uri=store.uri("results/x"), start_timeout_s=0.0)
    input_files(Payload(b"", ""), replace(spec, timeout_s=10 * 3600.0))
    with pytest.raises(
        StepConfigError, match=r"expire at .*Lower timeout, or give .* the key of a service acc"
    ):
        input_files(Payload(b"", ""), replace(spec, timeout_s=12 * 3600.0))


def test_who_may_not_sign_is_told_the_role(gcs: Gcs, connect: Connect) -> None:
    store = impersonating(gcs, connect)
    store.put_new("x", b"1")
    target = gcs.world.accounts.find(f"target@{gcs.account.project}.iam.gserviceaccount.com")
    assert target is not None
    target.token_creators.clear()
    with pytest.raises(StepConfigError, match=r"target@.* cannot sign addresses: HTTP 403.*TokenCreator"):
        store.sign("GET", ["x"], until())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["unavailable", "throttle", "lost"])
@pytest.mark.parametrize("operation", ["signBlob", "generateAccessToken", "token"])
def test_credentials_that_come_late(gcs: Gcs, connect: Connect, kind: str, operation: str) -> None:
    store = impersonating(gcs, connect)
    gcs.world.faults.add(kind, operation, count=3)
    assert store.put_new("x", b"1")
    (url,) = store.sign("GET", ["x"], until())
    assert send("GET", url) == (200, b"1")
    assert gcs.world.faults.asked[operation] >= 4


# -- faults


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["unavailable", "throttle", "lost"])
def test_requests_that_fail_are_sent_again(gcs: Gcs, connect: Connect, kind: str, is_done: bool) -> None:
    """Each kind of request, before and after the service has carried it out."""
    store, faults = connect(), gcs.world.faults
    data = random.Random(1).randbytes(20 * MIB)

    def failing(operation: str) -> None:
        assert not [one for one in faults._faults if one.count], "the earlier request was sent"
        faults.add(kind, operation, after=is_done)

    for operation in ("POST upload", "PUT part", "POST end of upload"):
        failing(operation)
        store.put("a/big", data)
    failing("GET object")
    assert store.read("a/big", len(data)) == data
    failing("HEAD object")
    assert store.size_of("a/big") == len(data)
    failing("PUT object")
    store.put_new("a/small", b"1")  # a lost answer looks like an object of somebody else
    assert store.read("a/small", 1) == b"1"
    failing("GET list")
    assert sorted(store.list("a")) == ["a/big", "a/small"]
    failing("DELETE object")
    store.delete("a/big")
    failing("DELETE object")
    store.delete_folder("a")
    assert list(store.list("")) == []


def test_a_folder_is_deleted_by_two_at_once(gcs: Gcs, connect: Connect) -> None:
    store = connect()
    for number in range(5):
        store.put_new(f"a/{number}", b"1")
    held = gcs.world.faults.add("hold", "DELETE object")
    other = open_store(f"gs://{store.conn_id}@{store.bucket}/{store.prefix}/")
    thread = threading.Thread(target=lambda: store.delete_folder("a"))
    thread.start()
    assert held.reached.wait(60)
    other.delete_folder("a")
    held.release.set()
    thread.join(60)
    assert not thread.is_alive()
    assert list(store.list("")) == []


def test_listings_of_several_pages(gcs: Gcs, connect: Connect) -> None:
    store = connect()
    inside = gcs.world.buckets.find(store.bucket)
    names = [f"a/{number:05}" for number in range(2_050)]
    for name in (*names, "b/1"):
        inside.put(new_object(f"{store.prefix}/{name}", b"1", "text/plain"), None)
    assert list(store.list("a")) == names
    assert gcs.world.faults.asked["GET list"] == 3
    store.delete_folder("a")
    assert list(store.list("")) == ["b/1"]


@pytest.mark.parametrize("page", [1000, 2])
def test_a_strange_name_hides_no_other_object(
    gcs: Gcs, connect: Connect, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """obstore refuses a listing that has one."""
    monkeypatch.setattr(s3_listing, "PAGE", page)
    gcs.world.buckets.find(gcs.bucket).requester_pays = True
    store = connect({"quota_project_id": "ours"})
    good = ["parts/2026-01-05/a", "parts/2026-01-05/b", "parts/2026-01-12/ü & <x>+%41"]
    strange = ["parts/2026-01-05/\x7f", "parts/a\x1b[2J/b/c", "parts/-\t"]
    inside = gcs.world.buckets.find(store.bucket)
    for name in (*good, *strange):
        inside.put(new_object(f"{store.prefix}/{name}", b"12345", "text/plain"), None)
    assert [(one.path, one.size) for one in store.objects("parts")] == [(name, 5) for name in good]
    assert list(store.list("")) == good
    assert len(store.skipped) == len(strange), "each is named once"
    store.delete_folder("parts")
    assert len(inside.objects) == len(strange)
    gcs.account.permissions.discard("storage.objects.list")
    with pytest.raises(StoreError, match=r"could not be listed: gs://.*storage\.objects\.list"):
        list(store.list("parts"))


# -- tokens


def test_a_long_transfer_gets_new_tokens(gcs: Gcs, connect: Connect) -> None:
    """A token that ends soon is replaced before each request. One that lasts is used for all."""
    data = random.Random(2).randbytes(40 * MIB)
    store = impersonating(gcs, connect)
    store.put("x", data)
    assert gcs.world.faults.asked["generateAccessToken"] == 1
    gcs.world.accounts.token_s = 60.0
    short = connect({"impersonation_chain": "target@test-project.iam.gserviceaccount.com"})
    short.put("x", data)
    assert short.read("x", len(data)) == data
    asked = gcs.world.faults.asked
    assert asked["generateAccessToken"] > asked["PUT part"] / 2, asked


def test_a_token_that_was_revoked_is_replaced(gcs: Gcs, connect: Connect) -> None:
    store = impersonating(gcs, connect)
    store.put_new("x", b"1")
    gcs.world.accounts.revoke_all()
    with pytest.raises(StoreError, match="AuthenticationRequired"):
        store.read("x", 1)
    assert store.read("x", 1) == b"1", "the next call takes new ones"


def test_a_token_that_is_refused_in_the_middle_is_explained(gcs: Gcs, connect: Connect) -> None:
    gcs.world.accounts.token_s = 60.0
    store = impersonating(gcs, connect)
    store.put_new("x", b"1")
    target = gcs.world.accounts.find("target@test-project.iam.gserviceaccount.com")
    assert target is not None
    target.token_creators.clear()
    with pytest.raises((StoreError, StepConfigError), match=r"getAccessToken.*TokenCreator"):
        read_until_it_fails(store)


def read_until_it_fails(store: BucketStore) -> None:
    while True:  # obstore uses a token for a moment before it asks for another
        store.read("x", 1)


def test_neither_key_nor_token_is_in_an_error_or_a_log(gcs: Gcs, connect: Connect, caplog: Any) -> None:
    store = connect()
    with caplog.at_level("DEBUG"):
        gcs.account.permissions.clear()
        errors = [error_of(call) for call in calls(store)]
    texts = json.dumps([*(f"{error} {error.__cause__}" for error in errors), caplog.text])
    assert "eyJ" not in texts, "of a token that the key has signed"
    assert "PRIVATE KEY" not in texts


def error_of(call: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value


def calls(store: BucketStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put_new("x", b"1"),
        lambda: store.put("x", bytes(20 * MIB)),
        lambda: store.read("x", 1),
        lambda: store.size_of("x"),
        lambda: list(store.list("")),
    ]


# -- errors


@pytest.mark.parametrize("number", range(5))
def test_what_an_account_may_not_do_is_said_with_the_command_that_allows_it(
    gcs: Gcs, connect: Connect, number: int
) -> None:
    gcs.account.permissions.clear()
    text = str(error_of(calls(connect())[number]))
    assert re.search("gs://steps/.*(AccessDenied|403|permission)", text, re.IGNORECASE), text
    if number != 3:  # an answer to HEAD has no text
        assert re.search(r"does not have storage\.\w+\.\w+ access", text)
        assert (
            f"gs://steps --member=serviceAccount:{gcs.account.email} --role=roles/storage.objectUser" in text
        )


def test_the_least_permissions_suffice(gcs: Gcs, connect: Connect) -> None:
    """Those of the documentation."""
    gcs.account.permissions = {
        f"storage.{name}"
        for name in (
            *(f"objects.{verb}" for verb in ("create", "delete", "get", "list")),
            *(f"multipartUploads.{verb}" for verb in ("create", "abort")),
        )
    }
    store = connect()
    assert store.put_new("x", b"1")
    assert not store.put_new("x", b"1")
    store.put("x", bytes(20 * MIB))
    assert store.size_of("x") == 20 * MIB
    for method in ("GET", "PUT"):
        (url,) = store.sign(method, ["x"], until())
        assert send(method, url, b"2" if method == "PUT" else None)[0] == 200
    store.delete_folder("")


def test_a_bucket_that_does_not_exist(connect: Connect) -> None:
    store = open_store(f"gs://{connect().conn_id}@{'x' * 20}/prefix")
    with pytest.raises(StoreError, match=r"NoSuchBucket.*Create the bucket"):
        store.put_new("x", b"1")


def test_a_key_that_was_replaced(gcs: Gcs, connect: Connect) -> None:
    key = gcs.key_file() | {"private_key": gcs.key_file(gcs.world.accounts.add("other"))["private_key"]}
    store = connect({"keyfile_dict": key})
    with pytest.raises(
        StoreError, match=r"AuthenticationRequired.*Correct the key of the connection stepop_t"
    ):
        store.put_new("x", b"1")
    with pytest.raises(StoreError, match=r"401.*Correct the key"):
        store.size_of("x")


def test_an_endpoint_that_nobody_answers_at(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore_calls, "RETRY_LIMIT_S", 1.0)
    store = connect({"endpoints": {"storage": "http://127.0.0.1:1"}})
    with pytest.raises(StoreError, match=r"Check endpoints\.storage"):
        store.put_new("x", b"")
