"""Encrypts the secret files that travel to a job through a bucket. The worker seals, the runner unseals.

The key is in the job's request, the sealed file is in the bucket: either alone reveals nothing. The standard
library has no AES, so the cipher is a stream of SHAKE-256 with a random beginning, followed by an HMAC::

    16 random bytes | data XOR SHAKE-256(key, name, random bytes) | HMAC-SHA256(key, name, all before)

The name is that of the file, so one sealed file cannot stand for another of the same job.

The same key makes the MAC of the job's receipt: see :func:`receipt_mac`.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from . import protocol
from .failures import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_BYTES, SALT_BYTES, MAC_BYTES = 32, 16, 32


def sealed(data: bytes, key: bytes, name: str) -> bytes:
    """Return the encrypted bytes of a file. Each call returns other bytes.

    :param key: 32 bytes that only the sender and the job know
    :param name: name of the file without ``.sealed``, such as ``secrets.json``
    """
    salt = os.urandom(SALT_BYTES)
    body = salt + _masked(data, key, name, salt)
    return body + _mac(body, key, name)


def unsealed(blob: bytes, key: bytes, name: str) -> bytes:
    """Return the bytes that were sealed.

    :param name: as for :func:`sealed`
    :raises ValueError: the bytes were changed or truncated, or were sealed with another key or name
    """
    body, mac = blob[:-MAC_BYTES], blob[-MAC_BYTES:]
    if len(body) < SALT_BYTES or not hmac.compare_digest(mac, _mac(body, key, name)):
        raise ValueError(f"{name} was changed after it was sealed, or was sealed with another key")
    return _masked(body[SALT_BYTES:], key, name, body[:SALT_BYTES])


def read_sealed(options: Mapping[str, str], name: str) -> bytes:
    """Return the bytes of a sealed file of the input folder.

    Only ``locations.json`` may be plain, because the runner does not trust it. Whoever can write to the
    folder could have added any other plain file.

    :param options: those of the runner; ``seal`` is the key in hexadecimal digits
    :raises FileNotFoundError: there is no such sealed file
    :raises OSError: the file cannot be read
    :raises StepError: the file was changed, or it was sealed with another key
    """
    path = os.path.join(options["in"], name)
    is_sealed = name != protocol.LOCATIONS or os.path.exists(path + protocol.SEALED)
    with open(path + protocol.SEALED if is_sealed else path, "rb") as stream:
        data = stream.read()
    if not is_sealed:
        return data
    try:
        return unsealed(data, bytes.fromhex(options["seal"]), name)
    except ValueError as error:
        hint = "the stored input was changed after it was written; clear the task to write it again"
        raise StepError("infra", f"The step's input cannot be read: {error}", hint) from None


def _masked(data: bytes, key: bytes, name: str, salt: bytes) -> bytes:
    # the key and the salt have fixed lengths, so no other key, name and salt give the same text
    stream = hashlib.shake_256(key + name.encode() + salt).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def receipt_mac(key: bytes, digest: str, size: int) -> str:
    """Return the MAC of a receipt: the first 16 bytes of an HMAC-SHA-256, in 32 hexadecimal digits.

    The receipt of a failure lies in a text of 1,024 characters, so the MAC is truncated.

    :param key: as for :func:`sealed`
    :param digest: SHA-256 of ``outcome.json`` in hexadecimal digits
    :param size: size of ``outcome.json`` in bytes
    """
    return hmac.new(key, f"receipt\0{digest} {size}".encode(), "sha256").hexdigest()[:32]


def _mac(body: bytes, key: bytes, name: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of sealed files must have {KEY_BYTES} bytes, and this one has {len(key)}")
    return hmac.new(key, b"sealed\0" + name.encode() + b"\0" + body, "sha256").digest()
