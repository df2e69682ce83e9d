"""Checks V4 signatures of signed URLs.

Sources: https://docs.cloud.google.com/storage/docs/authentication/signatures and
https://docs.cloud.google.com/storage/docs/authentication/canonical-requests
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from tests.emulators.gcs.accounts import Account, Accounts
from tests.emulators.gcs.errors import ApiError, invalid_argument
from tests.emulators.gcs.request import Request

ALGORITHM = "GOOG4-RSA-SHA256"
LONGEST_S = 604_800
NAMES = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
CREDENTIAL = re.compile(r"(?P<email>[^/]+)/(?P<scope>(?P<day>\d{8})/[a-z0-9-]+/storage/goog4_request)")


def is_signed(request: Request) -> bool:
    return "X-Goog-Algorithm" in request.query or "X-Goog-Signature" in request.query


def signer_of(request: Request, accounts: Accounts, now: datetime) -> Account:
    """Return the account that has signed the URL of a request.

    :raises ApiError: the URL has expired, was changed, or lacks a header that it was signed for
    """
    given = {name: request.query.get(f"X-Goog-{name}", "") for name in NAMES}
    missing = [name for name in NAMES if not given[name]]
    if missing:
        raise invalid_argument(f"Missing query parameter X-Goog-{missing[0]}")
    found = CREDENTIAL.fullmatch(given["Credential"])
    if given["Algorithm"] != ALGORITHM or found is None or not given["Date"].startswith(found["day"]):
        raise invalid_argument("Invalid credential scope")
    _check_time(given["Date"], given["Expires"], now)
    names = given["SignedHeaders"].split(";")
    _check_headers(request, names)
    account = accounts.find(found["email"])
    text = f"{ALGORITHM}\n{given['Date']}\n{found['scope']}\n{_digest(canonical(request, names))}"
    try:
        signature = bytes.fromhex(given["Signature"])
    except ValueError:
        signature = b""
    if account is None or not account.has_signed(text.encode(), signature):
        raise ApiError(
            403,
            "SignatureDoesNotMatch",
            "Access denied.",
            "The request signature we calculated does not match the signature you provided. Check your "
            "Google secret key and signing method.",
        )
    return account


def _check_time(date: str, expires: str, now: datetime) -> None:
    try:
        begin = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        valid_s = int(expires)
    except ValueError:
        raise invalid_argument("Invalid date or expiration") from None
    if not 0 < valid_s <= LONGEST_S:
        raise invalid_argument(f"X-Goog-Expires must be between 1 and {LONGEST_S}")
    if begin > now + timedelta(minutes=15):
        raise ApiError(403, "RequestTimeTooSkewed", "Access denied.", "The request is of the future")
    end = begin + timedelta(seconds=valid_s)
    if now > end:
        details = "The provided token has expired. Request signature expired at: " + end.isoformat()
        raise ApiError(400, "ExpiredToken", "Invalid argument.", details)


def _check_headers(request: Request, names: list[str]) -> None:
    """Each x-goog- header must be signed, and each signed header must be there."""
    sent = {name.lower() for name in request.headers}
    lacking = [name for name in names if name not in sent]
    unsigned = [name for name in sorted(sent) if name.startswith("x-goog-") and name not in names]
    if "host" not in names or names != sorted(names):
        raise invalid_argument("X-Goog-SignedHeaders must have the sorted names of headers, and host")
    for name, place in [*((one, "signedheaders, but not in the request") for one in lacking)]:
        raise _malformed(name, place)
    for name in unsigned:
        raise _malformed(name, "the request, but not in signedheaders")


def _malformed(name: str, place: str) -> ApiError:
    details = f"Header {name} was included in {place}."
    return ApiError(400, "MalformedSecurityHeader", "Your request has a malformed header.", details)


def canonical(request: Request, names: list[str]) -> str:
    pairs = [one.partition("=") for one in request.target.partition("?")[2].split("&")]
    # Encoded anew: a client may spell the same value in several ways
    encoded = sorted((_quoted(name), _quoted(value)) for name, _, value in pairs if name)
    query = "&".join(f"{name}={value}" for name, value in encoded if name != "X-Goog-Signature")
    lines = [f"{name}:{_folded(request, name)}" for name in names]
    payload = request.header("x-goog-content-sha256") or "UNSIGNED-PAYLOAD"
    return "\n".join([request.method, request.raw_path, query, *lines, "", ";".join(names), payload])


def _quoted(text: str) -> str:
    return quote(unquote(text), safe="-_.~")


def _folded(request: Request, name: str) -> str:
    values = request.headers.get_all(name) or []
    return ",".join(" ".join(value.split()) for value in values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
