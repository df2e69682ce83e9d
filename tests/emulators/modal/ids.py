"""Identifiers and tokens. The client tells a V1 sandbox from a V2 one by the shape of its id."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time

LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
KEY = secrets.token_bytes(32)


def object_id(prefix: str) -> str:
    """Return an id such as ``ap-`` with 22 letters and digits; a V1 sandbox has ``sb-``."""
    return f"{prefix}-{''.join(secrets.choice(LETTERS) for _ in range(22))}"


def sortable_id(prefix: str) -> str:
    """Return an id with 26 characters, the first of which tell the time; a V2 sandbox has ``sb-``."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    return f"{prefix}-{''.join(BASE32[number >> 5 * place & 31] for place in reversed(range(26)))}"


def signature(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def token(lifetime_s: float, **claims: str) -> str:
    """Return a JWT, of which clients read the expiry."""
    parts = [{"alg": "HS256", "typ": "JWT"}, {**claims, "exp": time.time() + lifetime_s}]
    body = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
    return f"{body}.{_encoded(signature(body).encode())}"


def claims_of(text: str) -> dict[str, str] | None:
    """Return the claims of a token of this emulator that has not expired."""
    body, _, signed = text.rpartition(".")
    if not body or _encoded(signature(body).encode()) != signed:
        return None
    part = body.partition(".")[2]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return dict(claims) if claims["exp"] > time.time() else None


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
