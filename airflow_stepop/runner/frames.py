"""Sends an outcome as lines of the log, for services that have no other channel of this size.

The runner's :mod:`.receipt` calls :func:`write`; the Kubernetes hook calls :func:`from_lines`.

- **Secrecy.** A log collector sees only noise: the bytes are XORed with a key stream. The stream is SHAKE-256
  of a key that is used once and travels with the input.
- **Integrity.** The hook compares the bytes with the digest in the receipt.

See decision 0009.
"""

from __future__ import annotations

import binascii
import os

from . import protocol
from .drain import LINGER_S, wait_until_read

LINE_BYTES = 2880  # data bytes of a line; an encoded line fits into PIPE_BUF, so its write is atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def hidden(data: bytes, key: bytes) -> bytes:
    """Return the bytes XORed with the key's stream. A second call with the same key restores the bytes."""
    from hashlib import shake_256

    stream = shake_256(key).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def to_lines(data: bytes, key: bytes) -> list[str]:
    """Return the log lines for ``data``, without line ends: ``STEPOP-FRAME number/count base64``."""
    masked = hidden(data, key)
    chunks = [masked[at : at + LINE_BYTES] for at in range(0, len(masked), LINE_BYTES)]
    encoded = [binascii.b2a_base64(chunk, newline=False).decode() for chunk in chunks]
    return [f"{protocol.FRAME_PREFIX}{number}/{len(chunks)} {text}" for number, text in enumerate(encoded, 1)]


def from_lines(lines: Iterable[str], key: bytes) -> bytes | None:
    """Return the bytes of the last complete set of lines; ``None`` when there is no complete set.

    :param lines: all lines of a log; other lines are skipped
    """
    found: list[str] = []
    whole = None
    for line in lines:
        _, is_framed, frame = line.rpartition(protocol.FRAME_PREFIX)
        if not is_framed:
            continue
        place, _, text = frame.partition(" ")
        number, _, count = place.partition("/")
        found = [*found, text] if number != "1" else [text]
        if number == count and str(len(found)) == count:
            whole = found
    try:
        return hidden(b"".join(map(binascii.a2b_base64, whole)), key) if whole else None
    except ValueError:  # the step has printed a line that looks like a frame
        return None


def write(data: bytes, key: bytes) -> None:
    """Print the lines to the log."""
    for line in to_lines(data, key):
        view = memoryview(f"{line}\n".encode())
        while view:
            view = view[os.write(1, view) :]
    wait_until_read(LINGER_S)
