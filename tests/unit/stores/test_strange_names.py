"""Whoever may write to a bucket can give an object a name that obstore refuses to list. It hides no other."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_stepop.connections.aws import AwsKeys
from airflow_stepop.exceptions import StoreError
from airflow_stepop.maintenance.garbage import list_folders
from airflow_stepop.stores import s3_listing
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.paths import PARTS

STRANGE = [
    "parts/2026-01-05\n/x",
    "parts/\r\nx",
    "parts/2026-01-05/\x7f",
    "parts/a\x1b[2J\n/b/c",
    "parts/-\n",
]
GOOD = ["parts/2026-01-05/" + "a" * 64, "parts/2026-01-05/" + "b" * 64, "parts/2026-01-12/ü & <x>+%41"]


@pytest.fixture
def store(s3_server):
    store = open_store(s3_server.new_address())
    yield store
    _delete_all(s3_server, store)


def _client(s3_server):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        aws_access_key_id=s3_server.key,
        aws_secret_access_key=s3_server.secret,
        region_name="us-east-1",
    )


def _put(s3_server, store, *names):
    client = _client(s3_server)
    for name in names:
        client.put_object(Bucket=store.bucket, Key=f"{store.prefix}/{name}", Body=b"x")


def _delete_all(s3_server, store):
    client = _client(s3_server)
    store.delete_folder("")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=f"{store.prefix}/")
    for page in pages:
        for one in page.get("Contents", ()):
            client.delete_object(Bucket=store.bucket, Key=one["Key"])


@pytest.fixture
def strange(s3_server, store):
    for name in GOOD:
        store.put_new(name, b"12345")
    _put(s3_server, store, *STRANGE)
    return store


@pytest.mark.parametrize("page", [1000, 2])
def test_all_other_objects_are_listed(strange, monkeypatch, page):
    monkeypatch.setattr(s3_listing, "PAGE", page)
    found = list(strange.objects("parts"))
    assert [(one.path, one.size) for one in found] == [(name, 5) for name in GOOD]
    assert min(one.modified_at for one in found) > 1_700_000_000
    assert list(strange.list("")) == GOOD
    assert len(strange.skipped) == len(STRANGE), "each is named once"
    assert all(text.isprintable() for text in strange.skipped)
    assert "parts/2026-01-05␊/x has a name that this package never writes" in strange.skipped


def test_the_folders_beside_it_are_garbage_as_before(strange):
    found = {folder.path: folder.count for folder in list_folders(strange, PARTS)}
    assert found == {"parts/2026-01-05": 2, "parts/2026-01-12": 1}


def test_a_folder_is_deleted_but_for_what_cannot_be_named(strange, s3_server):
    strange.delete_folder("parts")
    assert list(strange.list("parts")) == []
    answer = _client(s3_server).list_objects_v2(Bucket=strange.bucket, Prefix=f"{strange.prefix}/")
    assert len(answer["Contents"]) == len(STRANGE)


def test_after_many_pages(store, s3_server):
    """obstore has listed a thousand objects before it comes to the name. None is listed twice."""
    names = [f"results/{number:06d}" for number in range(1010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put_new(name, b""), names))
    _put(s3_server, store, "results/001005\n")
    assert list(store.list("results")) == names


def test_where_no_other_listing_is_possible_the_name_is_told(strange, s3_server, monkeypatch):
    """Without the check of certificates no request with credentials is made."""
    connection = json.loads(s3_server.connection())
    connection["extra"]["verify"] = False
    monkeypatch.setenv("AIRFLOW_CONN_UNVERIFIED", json.dumps(connection))
    store = open_store(f"s3://unverified@{strange.bucket}/{strange.prefix}")
    with pytest.raises(
        StoreError, match=r"could not be listed: .*a name with a control character: .*parts/.*x\. Delete it"
    ):
        list(store.list("parts"))


def test_names_that_are_encoded_in_the_answer():
    """As AWS does: in the encoding of forms."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=url, **keys)
        client.create_bucket(Bucket="bbb")
        names = ["a/-\x01", "a/b c+d%41&<e>", "a/\x7f", "a/ü"]
        for name in names:
            client.put_object(Bucket="bbb", Key=name, Body=b"12")
        bucket = s3_listing.Bucket(f"{url}/bbb", "us-east-1", lambda: AwsKeys("k", "s", "token"))
        assert [(one.path, one.size) for one in s3_listing.every_object(bucket, "a/", "")] == [
            (name, 2) for name in names
        ]
        assert [one.path for one in s3_listing.every_object(bucket, "a/", names[1])] == names[2:]
    finally:
        server.stop()


def test_a_refused_listing_is_explained(strange, s3_server, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(s3_listing, "PAGE", -1)  # the server refuses it
        with pytest.raises(StoreError, match=r"could not be listed: s3://.*: InvalidArgument"):
            list(strange.list("parts"))
