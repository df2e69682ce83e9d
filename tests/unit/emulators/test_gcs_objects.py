"""The emulator of Cloud Storage answers as the documentation of the XML API says: objects and listings."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.emulators.gcs.buckets import LEAST_PART_BYTES
from tests.support.gcs import Gcs
from tests.unit.emulators.gcs_client import Client

GENERATION = "x_goog_if_generation_match"


def test_an_object_there_and_back(storage: Client) -> None:
    put = storage("PUT", "/steps/a b/ü%", b"data", Content_Type="text/plain")
    assert put.status == 200
    assert put.headers["ETag"] == f'"{hashlib.md5(b"data").hexdigest()}"'
    got = storage("GET", "/steps/a b/ü%")
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, b"data", "text/plain")
    assert got.headers["x-goog-generation"] == put.headers["x-goog-generation"]
    head = storage("HEAD", "/steps/a b/ü%")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "4")
    assert "Last-Modified" in head.headers


def test_generations_are_preconditions(storage: Client) -> None:
    first = storage("PUT", "/steps/x", b"1", **{GENERATION: "0"})
    assert first.status == 200
    again = storage("PUT", "/steps/x", b"2", **{GENERATION: "0"})
    assert (again.status, again.code) == (412, "PreconditionFailed")
    current = first.headers["x-goog-generation"]
    second = storage("PUT", "/steps/x", b"3", **{GENERATION: current})
    assert second.headers["x-goog-generation"] > current
    for method in ("PUT", "DELETE", "GET"):
        assert storage(method, "/steps/x", **{GENERATION: current}).status == 412
    assert storage("GET", "/steps/x").body == b"3"
    assert storage("DELETE", "/steps/x", **{GENERATION: second.headers["x-goog-generation"]}).status == 204
    assert storage("PUT", "/steps/x", **{GENERATION: "abc"}).code == "InvalidArgument"


def test_etags_are_conditions_of_a_read(storage: Client) -> None:
    etag = storage("PUT", "/steps/x", b"1").headers["ETag"]
    assert storage("GET", "/steps/x", If_Match=etag).status == 200
    assert storage("GET", "/steps/x", If_Match='"other"').status == 412
    assert storage("GET", "/steps/x", If_None_Match=etag).status == 304


@pytest.mark.parametrize(
    ("span", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=8-20", 206, b"89"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=-20", 206, b"0123456789"),
        ("bytes=10-12", 416, b""),
        ("bytes=10-", 416, b""),
        ("bytes=x", 400, b""),
    ],
)
def test_ranges(storage: Client, span: str, status: int, body: bytes) -> None:
    storage("PUT", "/steps/x", b"0123456789")
    found = storage("GET", "/steps/x", Range=span)
    assert found.status == status
    if status == 206:
        assert found.body == body
        assert found.headers["Content-Range"].endswith("/10")
    elif status == 416:
        assert found.code == "InvalidRange"


def test_a_range_of_an_empty_object(storage: Client) -> None:
    storage("PUT", "/steps/x")
    assert storage("GET", "/steps/x", Range="bytes=0-1").status == 416


def test_what_is_not_there(storage: Client) -> None:
    gone = storage("GET", "/steps/gone")
    assert (gone.status, gone.code, gone.details) == (404, "NoSuchKey", "No such object: steps/gone")
    assert storage("DELETE", "/steps/gone").status == 404
    head = storage("HEAD", "/steps/gone")
    assert (head.status, head.body) == (404, b"")
    assert storage("GET", "/other/gone").code == "NoSuchBucket"
    assert storage("GET", "/other", query={"list-type": "2"}).code == "NoSuchBucket"


def test_a_checksum_that_differs_is_refused(storage: Client) -> None:
    right = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    assert storage("PUT", "/steps/x", b"data", Content_MD5=right).status == 200
    wrong = storage("PUT", "/steps/x", b"dat", Content_MD5=right)
    assert (wrong.status, wrong.code) == (400, "BadDigest")
    assert storage("GET", "/steps/x").body == b"data"


def test_a_copy(storage: Client) -> None:
    storage("PUT", "/steps/a/x", b"data")
    assert storage("PUT", "/steps/b", x_goog_copy_source="steps/a%2Fx").status == 200
    assert storage("GET", "/steps/b").body == b"data"
    assert storage("PUT", "/steps/b", x_goog_copy_source="steps/a%2Fx", **{GENERATION: "0"}).status == 412
    assert storage("PUT", "/steps/c", x_goog_copy_source="steps/gone").status == 404


# -- multipart uploads


def begin(storage: Client, name: str = "big") -> str:
    (key,) = storage("POST", f"/steps/{name}", query={"uploads": ""}).texts("UploadId")
    return key


def part(storage: Client, key: str, number: int, data: bytes) -> str:
    found = storage("PUT", "/steps/big", data, {"partNumber": str(number), "uploadId": key})
    assert found.status == 200, found.body
    return found.headers["ETag"]


def finish(storage: Client, key: str, *parts: tuple[int, str]):
    inner = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts)
    body = f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()
    return storage("POST", "/steps/big", body, {"uploadId": key})


def test_an_upload_in_parts(storage: Client) -> None:
    key, first = begin(storage), bytes(LEAST_PART_BYTES)
    second = part(storage, key, 2, b"end")
    done = [(1, part(storage, key, 1, first)), (2, second)]
    assert storage("GET", "/steps/big").status == 404, "an object is there as a whole or not at all"
    assert finish(storage, key, *done).status == 200
    found = storage("GET", "/steps/big")
    assert found.body == first + b"end"
    assert "md5" not in found.headers.get("x-goog-hash", "")
    assert finish(storage, key, *done).code == "NoSuchUpload"


def test_wrong_uploads(storage: Client) -> None:
    key = begin(storage)
    etag = part(storage, key, 1, b"too small")
    assert finish(storage, key, (1, etag), (2, part(storage, key, 2, b"x"))).code == "EntityTooSmall"
    assert finish(storage, key, (2, etag), (1, etag)).code == "InvalidPartOrder"
    assert finish(storage, key, (1, "other")).code == "InvalidPart"
    assert finish(storage, "none", (1, etag)).code == "NoSuchUpload"
    assert storage("POST", "/steps/big", b"<x", {"uploadId": key}).status == 400
    conditional = storage("POST", "/steps/big", query={"uploads": ""}, **{GENERATION: "0"})
    assert conditional.status == 400, "there is no create-only multipart upload"
    assert storage("DELETE", "/steps/big", query={"uploadId": key}).status == 204
    assert finish(storage, key, (1, etag)).code == "NoSuchUpload"


# -- listings


def listed(storage: Client, **query: str) -> tuple[list[str], list[str], str | None]:
    found = storage(
        "GET", "/steps", query={"list-type": "2", **{k.replace("_", "-"): v for k, v in query.items()}}
    )
    assert found.status == 200, found.body
    token = found.texts("NextContinuationToken")
    assert found.texts("IsTruncated") == [str(bool(token)).lower()]
    prefixes = found.texts("Prefix")[1:]
    return found.texts("Key"), prefixes, token[0] if token else None


def test_a_listing_has_pages_of_a_thousand(storage: Client, gcs: Gcs) -> None:
    for number in range(2_050):
        storage.gcs.world.buckets.find("steps").put(_new(f"a/{number:05}"), None)
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        names, _, token = listed(storage, prefix="a/", **({"continuation_token": token} if token else {}))
        assert 0 < len(names) <= 1000
        seen += names
    assert seen == [f"a/{number:05}" for number in range(2_050)]


def _new(name: str):
    from tests.emulators.gcs.buckets import new_object

    return new_object(name, b"", "text/plain")


def test_prefixes_delimiters_and_offsets(storage: Client) -> None:
    for name in ("a/1", "a/b/1", "a/b/2", "a/c", "ä", "b"):
        storage("PUT", f"/steps/{name}", b"1")
    assert listed(storage)[0] == ["a/1", "a/b/1", "a/b/2", "a/c", "b", "ä"], "in the order of UTF-8"
    assert listed(storage, prefix="a/", delimiter="/")[:2] == (["a/1", "a/c"], ["a/b/"])
    assert listed(storage, start_after="a/b/1")[0] == ["a/b/2", "a/c", "b", "ä"]
    assert listed(storage, prefix="ä", encoding_type="url")[0] == ["%C3%A4"]
    first = listed(storage, delimiter="/", max_keys="1")
    assert first[:2] == ([], ["a/"])
    assert listed(storage, delimiter="/", continuation_token=first[2])[:2] == (["b", "ä"], [])


def test_the_location_of_a_bucket(storage: Client, gcs: Gcs) -> None:
    gcs.world.buckets.add("both", "NAM4", "dual-region")
    denied = storage("GET", "/both", query={"location": ""})
    assert (denied.status, denied.code) == (403, "AccessDenied")
    gcs.account.permissions.add("storage.buckets.get")
    assert storage("GET", "/both", query={"location": ""}).xml.text == "NAM4"
    found = storage("GET", "/storage/v1/b/both").json
    assert (found["location"], found["locationType"]) == ("NAM4", "dual-region")
