"""A value as bytes, the entry that describes it, and the errors of both: what every codec stands on."""

from __future__ import annotations

import binascii

from . import protocol
from .hashing import BackgroundSha256

TYPE_CHECKING = False  # a type checker takes it for True; saves the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .hashing import Buffer

    Entry = dict[str, Any]
    Dumps = Callable[[Any, Callable[[Any], Any]], bytes]
    Loads = Callable[[Any, list[Any]], Any]
    ReadSegment = Callable[[dict[str, Any], str], Buffer]  # of a value of that codec
    # (buffers, how to get their digest, size) -> the fields that say where it is
    Save = Callable[[list[Buffer], Callable[[], str], int], dict[str, Any]]


class SegmentError(Exception):
    """Bytes are not those that were recorded: size or SHA-256 differ. Nothing was decoded."""


class EntryError(SegmentError):
    """What should describe a value does not, or the bytes are not data of its codec. Nothing was loaded."""


class UntrustedPickleError(Exception):
    """A pickle whose digest nobody vouches for; it was not loaded."""


class Encoded:
    """A value as bytes: the codec, and for each segment the buffers that make it up, not copied."""

    __slots__ = ("_hashes", "codec", "segments")

    def __init__(self, codec: str, segments: list[list[Buffer]]) -> None:
        self.codec = codec
        self.segments = segments
        self._hashes: list[BackgroundSha256] = []

    @property
    def size(self) -> int:
        return sum(memoryview(buffer).nbytes for segment in self.segments for buffer in segment)

    def digests(self) -> list[tuple[str, int]]:
        """Return SHA-256 and size of every segment."""
        return [(found.hexdigest(), found.size) for found in self._hashing()]

    def to_entry(self, save: Save, inline_limit: int = protocol.INLINE_VALUE_BYTES) -> Entry:
        """Write the value down: in the entry itself when it is small, else with ``save``."""
        is_inline = self.size <= inline_limit
        segments = []
        for buffers, found in zip(self.segments, self._hashing()):
            if is_inline:
                where = {"data": binascii.b2a_base64(b"".join(buffers), newline=False).decode()}
            else:
                where = save(buffers, found.hexdigest, found.size)
            segments.append({"sha256": found.hexdigest(), "size": found.size, **where})
        return {"codec": self.codec, "segments": segments}

    def _hashing(self) -> list[BackgroundSha256]:
        """Return the digest of each segment, of which the large ones are still being worked out."""
        if not self._hashes:
            self._hashes = [hashing(segment) for segment in self.segments]
        return self._hashes


def hashing(buffers: Iterable[Buffer]) -> BackgroundSha256:
    """Begin to hash the buffers in a row."""
    buffers = list(buffers)
    with BackgroundSha256(sum(memoryview(buffer).nbytes for buffer in buffers)) as found:
        for buffer in buffers:
            found.update(buffer)
    return found
