"""The XML API: https://docs.cloud.google.com/storage/docs/xml-api/overview, with addresses in path style."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.emulators.gcs.accounts import Account, Caller
from tests.emulators.gcs.buckets import Bucket, Object, Page, new_object
from tests.emulators.gcs.errors import (
    ApiError,
    denied,
    invalid_argument,
    no_such_bucket,
    precondition_failed,
)
from tests.emulators.gcs.request import Answer, Request
from tests.emulators.gcs.signatures import is_signed, signer_of
from tests.emulators.gcs.world import World

XMLNS = "http://doc.s3.amazonaws.com/2006-03-01"
MOST_KEYS = 1000
CONDITION = "x-goog-if-generation-match"


def operation_of(request: Request) -> str:
    """Return the name of an operation, for faults and for the count of requests."""
    _, name = request.place
    query = request.query
    if not name:
        kind = "location" if "location" in query else "uploads" if "uploads" in query else "list"
    elif "uploads" in query or "uploadId" in query:
        kind = "part" if "partNumber" in query else "upload"
        if request.method == "POST" and "uploadId" in query:
            kind = "end of upload"
    else:
        kind = "copy" if request.header("x-goog-copy-source") else "object"
    return f"{request.method} {kind}"


class XmlApi:
    """Answers the requests to buckets and objects."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._operations: dict[str, Callable[[Call], Answer]] = {
            "GET object": _get,
            "HEAD object": _get,
            "PUT object": _put,
            "PUT copy": self._copy,
            "DELETE object": _delete,
            "POST upload": _begin,
            "POST end of upload": _finish,
            "PUT part": _put_part,
            "DELETE upload": _abort,
            "GET list": _list,
            "GET location": _location,
        }

    def answer(self, request: Request) -> Answer:
        """Answer a request, or raise its error."""
        call = Call(self._caller(request), request, self._bucket(request))
        operation = self._operations.get(operation_of(request))
        if operation is None:
            raise ApiError(405, "MethodNotAllowed", "The specified method is not allowed.")
        call.check_billing()
        return operation(call)

    def _caller(self, request: Request) -> Caller:
        if is_signed(request):
            account: Account = signer_of(request, self.world.accounts, self.world.now())
            return Caller(account)
        return self.world.accounts.caller_of(request.header("Authorization"))

    def _bucket(self, request: Request) -> Bucket:
        name, _ = request.place
        if not name:
            raise ApiError(400, "InvalidURI", "Couldn't parse the specified URI.")
        return self.world.buckets.find(name)

    def _copy(self, call: Call) -> Answer:
        source, _, name = unquote(call.request.header("x-goog-copy-source") or "").lstrip("/").partition("/")
        try:
            bucket = self.world.buckets.find(source)
        except ApiError:
            raise no_such_bucket() from None
        found = Call(call.caller, call.request, bucket).readable(name)
        call.check_write(call.name)
        new = new_object(call.name, found.data, found.content_type)
        call.bucket.put(new, call.request.header(CONDITION))
        return _xml("CopyObjectResult", f"<ETag>{escape(new.etag)}</ETag>", _headers(new))


class Call:
    """A request with its caller and its bucket."""

    def __init__(self, caller: Caller, request: Request, bucket: Bucket) -> None:
        self.caller, self.request, self.bucket = caller, request, bucket
        self.name = request.place[1]

    def may(self, permission: str) -> bool:
        if self.caller.account is None:
            return self.bucket.is_public and permission in ("storage.objects.get", "storage.objects.list")
        is_write = not permission.endswith((".get", ".list"))
        if not self.caller.may_use_storage(is_write):
            details = "Provided scope(s) are not authorized"
            raise ApiError(403, "AccessDenied", "Access denied.", details)
        return permission in self.caller.account.permissions

    def need(self, permission: str) -> None:
        if not self.may(permission):
            raise denied(self.caller.name, permission)

    def check_billing(self) -> None:
        """See https://docs.cloud.google.com/storage/docs/requester-pays."""
        project = self.request.header("x-goog-user-project") or self.request.query.get("userProject")
        if self.bucket.requester_pays and not project:
            text = "User project specified in the request is invalid."
            details = "Bucket is a requester pays bucket but no user project provided."
            raise ApiError(400, "UserProjectMissing", text, details)

    def check_write(self, name: str) -> None:
        self.need("storage.objects.create")
        if name in self.bucket.objects and self.request.header(CONDITION) != "0":
            self.need("storage.objects.delete")

    def readable(self, name: str) -> Object:
        """Return an object. Who may not list the bucket is not told that an object is missing."""
        self.need("storage.objects.get")
        if name not in self.bucket.objects:
            self.need("storage.objects.list")
        return self.bucket.get(name)


def _xml(tag: str, inner: str, headers: dict[str, str] | None = None) -> Answer:
    text = f"<?xml version='1.0' encoding='UTF-8'?><{tag} xmlns='{XMLNS}'>{inner}</{tag}>"
    return Answer(body=text.encode(), headers=headers or {})


def _headers(found: Object) -> dict[str, str]:
    headers = {
        "ETag": found.etag,
        "Last-Modified": format_datetime(datetime.fromtimestamp(found.updated, UTC), usegmt=True),
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": "1",
        "x-goog-stored-content-length": str(len(found.data)),
        "x-goog-storage-class": "STANDARD",
    }
    if found.md5:
        headers["x-goog-hash"] = f"md5={base64.b64encode(bytes.fromhex(found.md5)).decode()}"
    return headers


# -- objects


def _get(call: Call) -> Answer:
    found = call.readable(call.name)
    request, headers = call.request, {**_headers(found), "Accept-Ranges": "bytes"}
    call.bucket.check_generation(call.name, request.header(CONDITION))
    wanted, unwanted = request.header("If-Match"), request.header("If-None-Match")
    if wanted not in (None, "*", found.etag):
        raise precondition_failed()
    if unwanted in ("*", found.etag):
        return Answer(304, headers=headers)
    span = request.header("Range")
    if span is None:
        return Answer(200, found.data, headers, found.content_type)
    first, last = _span(span, len(found.data))
    headers["Content-Range"] = f"bytes {first}-{last}/{len(found.data)}"
    return Answer(206, memoryview(found.data)[first : last + 1], headers, found.content_type)


def _span(text: str, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if found is None or found.groups() == ("", ""):
        raise invalid_argument(f"Invalid range: {text}")
    begin, end = found.groups()
    first = int(begin) if begin else max(0, size - int(end))
    last = min(int(end), size - 1) if begin and end else size - 1
    if first >= size or (not begin and int(end) == 0):
        text = "The requested range cannot be satisfied."
        raise ApiError(416, "InvalidRange", text, f"{text} Object size: {size}")
    return first, last


def _put(call: Call) -> Answer:
    call.check_write(call.name)
    request = call.request
    if len(call.name.encode()) > 1024 or "\r" in call.name or "\n" in call.name:
        raise ApiError(400, "InvalidObjectName", "The specified object name is not valid.")
    md5 = request.header("Content-MD5")
    if md5 is not None and base64.b64decode(md5) != hashlib.md5(request.body).digest():
        raise ApiError(400, "BadDigest", "The MD5 you specified did not match what we received.")
    new = new_object(call.name, request.body, request.header("Content-Type") or "application/octet-stream")
    call.bucket.put(new, request.header(CONDITION))
    return Answer(headers=_headers(new))


def _delete(call: Call) -> Answer:
    call.need("storage.objects.delete")
    call.bucket.delete(call.name, call.request.header(CONDITION))
    return Answer(204)


# -- multipart uploads: https://docs.cloud.google.com/storage/docs/multipart-uploads


def _begin(call: Call) -> Answer:
    _check_upload(call)
    key = call.bucket.begin(call.name, call.request.header("Content-Type") or "application/octet-stream")
    return _xml("InitiateMultipartUploadResult", f"{_where(call)}<UploadId>{key}</UploadId>")


def _finish(call: Call) -> Answer:
    _check_upload(call)
    key = call.request.query["uploadId"]
    call.bucket.upload(key, call.name)
    call.check_write(call.name)
    new = call.bucket.finish(key, call.name, _parts(call.request.body))
    inner = f"{_where(call)}<ETag>{escape(new.etag)}</ETag>"
    return _xml("CompleteMultipartUploadResult", inner, _headers(new))


def _check_upload(call: Call) -> None:
    call.need("storage.multipartUploads.create")
    call.need("storage.objects.create")
    if call.request.header(CONDITION) is not None:
        raise invalid_argument("Preconditions are not supported for multipart uploads")


def _where(call: Call) -> str:
    return f"<Bucket>{escape(call.bucket.name)}</Bucket><Key>{escape(call.name)}</Key>"


def _parts(body: bytes) -> list[tuple[int, str]]:
    try:
        parts = list(ElementTree.fromstring(body))
        return [
            (int(_text(part, "PartNumber")), _text(part, "ETag").replace("&quot;", '"').strip('"'))
            for part in parts
        ]
    except (ElementTree.ParseError, ValueError):
        text = "The XML you provided was not well-formed or did not validate against our published schema."
        raise ApiError(400, "MalformedCompleteMultipartUploadRequest", text) from None


def _text(element: ElementTree.Element, tag: str) -> str:
    return next((one.text or "" for one in element if one.tag.rpartition("}")[2] == tag), "")


def _put_part(call: Call) -> Answer:
    call.need("storage.multipartUploads.create")
    call.need("storage.objects.create")
    query = call.request.query
    etag = call.bucket.put_part(
        query.get("uploadId", ""), call.name, query.get("partNumber", ""), call.request.body
    )
    return Answer(headers={"ETag": etag})


def _abort(call: Call) -> Answer:
    call.need("storage.multipartUploads.abort")
    call.bucket.abort(call.request.query["uploadId"], call.name)
    return Answer(204)


# -- buckets


def _location(call: Call) -> Answer:
    call.need("storage.buckets.get")
    return _xml("LocationConstraint", call.bucket.location)


def _list(call: Call) -> Answer:
    call.need("storage.objects.list")
    query = call.request.query
    if query.get("list-type") != "2":
        raise ApiError(501, "NotImplemented", "The emulator has version 2 of the listing only.")
    asked = query.get("max-keys", str(MOST_KEYS))
    if not asked.isdigit():
        raise invalid_argument(f"Invalid argument: max-keys={asked}")
    try:
        token = base64.urlsafe_b64decode(query.get("continuation-token", "")).decode()
    except ValueError:
        raise invalid_argument("Invalid continuation token") from None
    page = call.bucket.page(
        query.get("prefix", ""),
        query.get("delimiter", ""),
        query.get("start-after", ""),
        token,
        min(int(asked), MOST_KEYS),
    )
    return _xml("ListBucketResult", _listing(call, page, int(asked)))


def _listing(call: Call, page: Page, asked: int) -> str:
    query, as_url = call.request.query, call.request.query.get("encoding-type") == "url"

    def name(text: str) -> str:
        return quote(text) if as_url else escape(text)

    inner = f"<Name>{escape(call.bucket.name)}</Name><Prefix>{name(query.get('prefix', ''))}</Prefix>"
    inner += f"<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount><MaxKeys>{asked}</MaxKeys>"
    inner += f"<IsTruncated>{str(page.token is not None).lower()}</IsTruncated>"
    if page.token is not None:
        token = base64.urlsafe_b64encode(page.token.encode()).decode()
        inner += f"<NextContinuationToken>{token}</NextContinuationToken>"
    for found in page.objects:
        updated = datetime.fromtimestamp(found.updated, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        inner += f"<Contents><Key>{name(found.name)}</Key><Generation>{found.generation}</Generation>"
        inner += f"<MetaGeneration>1</MetaGeneration><LastModified>{updated}Z</LastModified>"
        inner += f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size></Contents>"
    for prefix in page.prefixes:
        inner += f"<CommonPrefixes><Prefix>{name(prefix)}</Prefix></CommonPrefixes>"
    return inner
