"""SHA-256 without the price of OpenSSL for small data: loading that costs more than much of a small step."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash

# above this, the faster code of OpenSSL pays for its loading
SMALL_BYTES = 1 << 20


def sha256(size: int, data: bytes = b"") -> _Hash:
    """Return a SHA-256 object that has seen ``data``; ``size`` is how much it will see in all."""
    if size <= SMALL_BYTES and "_hashlib" not in sys.modules:
        for name in ("_sha2", "_sha256"):  # since Python 3.12, and before
            try:
                return __import__(name).sha256(data)  # type: ignore[no-any-return]
            except ImportError:
                continue
    import hashlib

    return hashlib.sha256(data)
