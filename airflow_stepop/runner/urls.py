"""Reads and writes pre-signed URLs with the standard library. Imported only by steps that have such URLs.

The part after the ``?`` is a secret, so messages leave it out. Transient errors (a cut connection, HTTP 5xx,
408 or 429) are retried with exponential back-off. A redirect to another host is refused: a result would go
where nobody wanted it.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import lru_cache, partial

from .entries import SegmentError
from .files import report
from .threads import Progress
from .values import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from .hashing import Buffer

# transient errors of the store are retried for so many seconds
RETRY_LIMIT_S = 240.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
SILENCE_S = 60.0
# HTTP statuses below 500 that are transient
_LATER = frozenset({408, 429})
_ERROR_BYTES = 64 * 1024
_PIECE_BYTES = 16 << 20  # bytes of one request of fetch(): a cut connection loses at most one piece


class RedirectError(OSError):
    """The store has sent the step to another host."""


class _SameHost(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        here, there = (urllib.parse.urlsplit(one)[:2] for one in (req.full_url, newurl))
        if here != there:
            fp.close()
            raise RedirectError(
                f"the store redirects from {'://'.join(here)} to {'://'.join(there)}, which is refused. If "
                "the bucket is in another region, write the bucket's region into the connection"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@lru_cache(None)
def _opener() -> Any:
    """Return what sends the requests. It reads the proxies from the environment, once, as urlopen() does."""
    return urllib.request.build_opener(_SameHost)


def _open(request: urllib.request.Request) -> Any:
    """Send a request and return its answer.

    :raises urllib.error.HTTPError: the store answers with an error
    :raises OSError: the store cannot be reached, or sends the step to another host
    """
    return _opener().open(request, timeout=SILENCE_S)


def get(url: str, offset: int, view: memoryview, whole: str = "") -> None:
    """Fill ``view`` with the object's bytes from ``offset`` on.

    :param whole: the object's name in messages, if the object must be exactly as long as ``view``; else empty
    :raises SegmentError: the object has another size
    :raises OSError: the object cannot be read
    """
    _with_retries(url, lambda: _get(url, offset, view, whole))


def check_size(url: str, size: int, name: str) -> None:
    """Check that an object has ``size`` bytes, by reading its first byte.

    :raises SegmentError: the object has another size
    :raises OSError: the object cannot be read
    """
    _with_retries(url, lambda: _get(url, 0, memoryview(bytearray(1)), name, size))


def put(url: str, body: Callable[[], Iterable[Buffer]], size: int, headers: Mapping[str, str]) -> None:
    """Write an object.

    :param body: returns the object's bytes; called again for every attempt
    :raises OSError: the object cannot be written
    """

    def once() -> None:
        try:
            _put(url, body(), size, headers)
        except (urllib.error.HTTPError, RedirectError):
            raise
        except (OSError, http.client.HTTPException):
            # A server that refuses may close the connection before it has read the body. Its answer is lost
            # then; a request without a body gets the answer.
            _put(url, (), 0, headers)
            raise

    _with_retries(url, once)


def fetch(url: str, path: str, allow: Callable[[int], object] | None = None) -> bool:
    """Download an object into the file ``path``; return whether the object exists.

    :param allow: called with the object's size in bytes before its bytes are read; may raise to refuse it
    :raises OSError: the object cannot be read, or the file cannot be written
    """
    total, tag, progress = _PIECE_BYTES, "", None
    with open(path, "wb") as stream:
        while stream.tell() < total:
            found = _with_retries(url, partial(_piece, url, stream.tell(), tag, allow))
            if found is None:
                return False
            data, total, tag = found
            stream.write(data)
            progress = progress or Progress(f"reading {url.partition('?')[0]}", total, report)
            progress.add(len(data))
            progress.tick()
    if progress is not None:
        progress.end()
    return True


def _piece(
    url: str, begin: int, tag: str, allow: Callable[[int], object] | None = None
) -> tuple[bytes, int, str] | None:
    """Return one piece from ``begin`` on, the object's size and its ETag; ``None`` if there is no object.

    :param tag: the ETag of the earlier pieces: a store refuses the request if the object was replaced since
    """
    headers = {"Range": f"bytes={begin}-{begin + _PIECE_BYTES - 1}", **({"If-Match": tag} if tag else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s) only
    try:
        with _open(request) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = total or answer.headers.get("Content-Length") or ""  # without a range, all of it comes
            if allow is not None and size.isdigit():
                allow(int(size))
            data = answer.read()
            return data, int(total or len(data)), answer.headers.get("ETag") or tag
    except urllib.error.HTTPError as error:
        if error.code == 416:  # an empty object
            return b"", 0, tag
        if error.code != 404:
            raise
        error.close()
        return None


def replace(
    url: str,
    body: Callable[[], Iterable[Buffer]],
    size: int,
    headers: Mapping[str, str],
    retry_limit_s: float,
) -> None:
    """Replace an object atomically. Unlike :func:`put`, this sends no request without a body after an error.

    :param retry_limit_s: transient errors are retried for so many seconds
    :raises OSError: the object cannot be written
    """
    _with_retries(url, lambda: _put(url, body(), size, headers), retry_limit_s)


def put_once(
    url: str, data: bytes, headers: Mapping[str, str], exists: Sequence[int], retry_limit_s: float
) -> None:
    """Create a small object. An object that exists already stays, and is no error.

    :param headers: with the one that makes the request create-only
    :param exists: the HTTP statuses that say that the object exists
    :raises OSError: the object cannot be written
    """

    def once() -> None:
        try:
            _put(url, (data,), len(data), headers)
        except urllib.error.HTTPError as error:
            if error.code not in exists:
                raise
            error.close()

    _with_retries(url, once, retry_limit_s)


def read(url: str, retry_limit_s: float) -> bytes | None:
    """Return a small object; ``None`` if there is no object.

    :raises OSError: the object cannot be read
    """
    found = _with_retries(url, partial(_piece, url, 0, ""), retry_limit_s)
    return found[0] if found is not None else None


def _get(url: str, offset: int, view: memoryview, whole: str, size: int = 0) -> None:
    size = size or len(view)  # of the whole object
    last = offset + len(view) - 1
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-{last}"})  # noqa: S310 - http(s) only, see Parts
    try:
        answer = _open(request)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        raise SegmentError(f"{whole or 'an object'} ends before byte {offset}") from None
    with answer:
        promised = answer.headers.get("Content-Length")
        if answer.status != 206:  # the server does not support ranges
            total = promised
            for _ in range(offset // CHUNK_BYTES):
                answer.read(CHUNK_BYTES)
            answer.read(offset % CHUNK_BYTES)
        else:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if total and total.isdigit() and (int(total) <= last or (whole and int(total) != size)):
            wanted = f"{size} that were recorded" if whole else f"{last + 1} that are needed"
            raise SegmentError(f"{whole or 'an object'} has {total} bytes and not the {wanted}")
        done = 0
        while done < len(view):
            count = answer.readinto(view[done : done + CHUNK_BYTES])
            if not count:
                raise OSError(f"the connection was cut after {done} of {len(view)} bytes")
            done += count


def _put(url: str, body: Iterable[Buffer], size: int, headers: Mapping[str, str]) -> None:
    fields = {"Content-Type": "application/octet-stream", **headers, "Content-Length": str(size)}
    data: Any = body  # the type stubs know bytes only
    request = urllib.request.Request(url, data=data, headers=fields, method="PUT")  # noqa: S310
    with _open(request) as answer:
        answer.read()


def _with_retries(url: str, call: Callable[[], Any], retry_limit_s: float = RETRY_LIMIT_S) -> Any:
    where, _, secret = url.partition("?")
    end, pause_s = time.monotonic() + retry_limit_s, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {_reason(error)}"
            is_final = error.code < 500 and error.code not in _LATER
            error.close()
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
            is_final = isinstance(error, (http.client.InvalidURL, RedirectError))  # others are transient
        if is_final or time.monotonic() + pause_s > end:
            text = f"{problem} for {where}"
            raise OSError(text.replace(secret, "...") if secret else text)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the reason for an HTTP error: what an XML answer says, else the status text."""
    import re

    try:
        text = error.read(_ERROR_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        text = ""
    words = [re.search(f"<{tag}>([^<]*)", text) for tag in ("Code", "Message", "Details")]
    return ": ".join(found.group(1) for found in words if found) or str(error.reason)
