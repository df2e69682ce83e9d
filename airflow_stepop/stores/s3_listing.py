"""Lists a bucket whose objects have names that obstore refuses: with control characters.

One such name makes obstore refuse the whole listing. Whoever may write to a bucket could so hide garbage and
results. This module sends the same request itself, with the standard library. ``s3.py`` calls it, and
``gcs.py``: the XML API of Cloud Storage has the same listing.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlsplit
from urllib.request import Request

from airflow_stepop.runner.cloud_api import ask
from airflow_stepop.stores.base import StoredObject

if TYPE_CHECKING:
    from airflow_stepop.connections.aws import AwsKeys

PAGE = 1000  # objects of one answer, the most that S3 gives
_OBJECT = re.compile("<Contents>(.*?)</Contents>", re.DOTALL)


@dataclass(frozen=True)
class Bucket:
    """Address and credentials of a bucket.

    :param url: address of the bucket itself, ``https://s3.REGION.amazonaws.com/NAME``
    :param keys: returns the current credentials
    :param ca_file: certificates that replace those of the system
    """

    url: str
    region: str
    keys: Callable[[], AwsKeys]
    ca_file: str | None = None


def every_object(bucket: Bucket, prefix: str, after: str) -> Iterator[StoredObject]:
    """Yield every object whose key begins with ``prefix``, in the order of the keys; ``path`` is the key.

    :param after: only keys behind this one; empty: all
    :raises OSError: the bucket cannot be listed
    """
    return listed(lambda asked: _signed(bucket, asked, time.time()), prefix, after, ca_file=bucket.ca_file)


def listed(
    request: Callable[[Mapping[str, str]], Request],
    prefix: str,
    after: str,
    *,
    ca_file: str | None = None,
    is_encoded: bool = False,
) -> Iterator[StoredObject]:
    """Yield every object whose key begins with ``prefix``, as :func:`every_object` does.

    :param request: makes the request of a page, with credentials, from the parameters of its address
    :param is_encoded: the server encodes names as it is asked to, although its answer does not say so
    :raises OSError: the bucket cannot be listed
    """
    asked = {"list-type": "2", "encoding-type": "url", "prefix": prefix, "max-keys": str(PAGE)}
    if after:
        asked["start-after"] = after
    while True:
        text = _page(partial(request, asked), ca_file)
        is_url = (
            is_encoded or _field(text, "EncodingType") == "url"
        )  # not every server that is compatible does so
        for one in _OBJECT.findall(text):
            key = _field(one, "Key")
            modified_at = datetime.fromisoformat(_field(one, "LastModified")).timestamp()
            yield StoredObject(unquote_plus(key) if is_url else key, int(_field(one, "Size")), modified_at)
        token = _field(text, "NextContinuationToken")
        if not token:
            return
        asked = {**asked, "continuation-token": token}


def _page(request: Callable[[], Request], ca_file: str | None) -> str:
    status, body = ask(request, ca_file=ca_file)
    text = body.decode("utf-8", "replace")
    if status != 200:
        found = [_field(text, name) for name in ("Code", "Message", "Details")]
        raise OSError(": ".join(one.rstrip(".") for one in found if one) or f"HTTP {status}")
    return text


def _field(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return _plain(found[1]) if found else ""


def _plain(text: str) -> str:
    """Return the text with its references of XML replaced, also those to control characters."""
    text = re.sub("&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));", _character, text)
    for name, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
        text = text.replace(f"&{name};", character)
    return text


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16) if found[1] else int(found[2])
    return chr(number) if number <= sys.maxunicode else "\N{REPLACEMENT CHARACTER}"


def _signed(bucket: Bucket, asked: Mapping[str, str], at: float) -> Request:
    """Return a request with a signature of version 4.

    :param at: time of the signature, in seconds since the epoch
    """
    parts, keys = urlsplit(bucket.url), bucket.keys()
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    nothing = hashlib.sha256(b"").hexdigest()
    headers = {
        "host": parts.netloc.removesuffix(default_port),
        "x-amz-content-sha256": nothing,
        "x-amz-date": stamp,
    }
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    query = "&".join(f"{quote(name, safe='')}={quote(asked[name], safe='')}" for name in sorted(asked))
    path = quote(parts.path or "/", safe="/-_.~%")
    canonical = "\n".join(["GET", path, query, *lines, "", names, nothing])
    scope = f"{stamp[:8]}/{bucket.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return Request(f"{parts.scheme}://{parts.netloc}{path}?{query}", headers=headers)  # noqa: S310 - http(s)
