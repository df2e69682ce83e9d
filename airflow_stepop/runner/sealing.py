"""Seals files that lie in a bucket: without the key, their bytes are noise, and a change is noticed.

The host seals files with :func:`sealed`, and the runner opens them with :func:`unsealed`. A sealed file is::

    16 random bytes | data XOR SHAKE-256(key, name, random bytes) | HMAC-SHA256(key, all before, and the name)

The standard library has no cipher; SHAKE-256 gives a key stream.
"""

from __future__ import annotations

import hmac
import os
from hashlib import shake_256

SALT_BYTES, MAC_BYTES = 16, 32


def sealed(data: bytes, key: bytes, name: str) -> bytes:
    """Return the sealed file. Each call returns other bytes.

    :param name: name of the file; an attacker cannot put the sealed file under another name
    """
    salt = os.urandom(SALT_BYTES)
    body = salt + _masked(data, key, name, salt)
    return body + _mac(body, key, name)


def unsealed(blob: bytes, key: bytes, name: str) -> bytes:
    """Return the data of a sealed file.

    :raises ValueError: the file was changed, was sealed with another key, or had another name
    """
    body, mac = blob[:-MAC_BYTES], blob[-MAC_BYTES:]
    if len(body) < SALT_BYTES or not hmac.compare_digest(mac, _mac(body, key, name)):
        raise ValueError(f"{name} was changed after it was sealed, or was sealed with another key")
    return _masked(body[SALT_BYTES:], key, name, body[:SALT_BYTES])


def _masked(data: bytes, key: bytes, name: str, salt: bytes) -> bytes:
    stream = shake_256(key + name.encode() + salt).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def _mac(body: bytes, key: bytes, name: str) -> bytes:
    return hmac.new(key, b"sealed\0" + name.encode() + b"\0" + body, "sha256").digest()
