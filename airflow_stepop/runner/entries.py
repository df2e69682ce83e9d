"""An encoded value, its entry, and their errors. Used by every codec of the runner, and by the host."""

from __future__ import annotations

import binascii

from . import protocol
from .hashing import BackgroundSha256

TYPE_CHECKING = False  # type checkers assume True; this saves the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .hashing import Buffer
    from .wire import Entry, Location, Segment

    Dumps = Callable[[object, Callable[[Any], object]], bytes]
    Loads = Callable[[Any, list[Any]], Any]
    ReadSegment = Callable[[Segment, str], Buffer]  # (segment, codec) -> bytes
    # (buffers, function that returns their digest, size) -> the fields of the segment's location
    Save = Callable[[list[Buffer], Callable[[], str], int], Location]


class SegmentError(Exception):
    """The size or SHA-256 of the bytes differs from the recorded one. Nothing was decoded."""


class EntryError(SegmentError):
    """The entry is malformed, or the bytes are not data of its codec. No pickle was loaded."""


class UntrustedPickleError(Exception):
    """A pickle without a trusted digest. The pickle was not loaded."""


class Encoded:
    """An encoded value: the codec, and the buffers of each segment. The buffers are not copied.

    ``about`` may say for people what the value is, and ``pickled`` which parts of it only pickle can hold.
    """

    __slots__ = ("_hashes", "about", "codec", "pickled", "segments")

    def __init__(self, codec: str, segments: list[list[Buffer]]) -> None:
        self.codec = codec
        self.segments = segments
        self.about = self.pickled = ""
        self._hashes: list[BackgroundSha256] = []

    @property
    def size(self) -> int:
        return sum(memoryview(buffer).nbytes for segment in self.segments for buffer in segment)

    def digests(self) -> list[tuple[str, int]]:
        """Return SHA-256 and size of every segment."""
        return [(found.hexdigest(), found.size) for found in self._hashing()]

    def to_entry(self, save: Save, inline_limit: int = protocol.INLINE_VALUE_BYTES) -> Entry:
        """Return the entry of the value. The entry holds a small value itself; ``save`` stores a larger one.

        :param inline_limit: largest value inside the entry, in bytes
        """
        is_inline = self.size <= inline_limit
        segments: list[Segment] = []
        for buffers, found in zip(self.segments, self._hashing()):
            if is_inline:
                where: Location = {"data": binascii.b2a_base64(b"".join(buffers), newline=False).decode()}
            else:
                where = save(buffers, found.hexdigest, found.size)
            segments.append({"sha256": found.hexdigest(), "size": found.size, **where})
        entry: Entry = {"codec": self.codec, "segments": segments}
        if self.about:
            entry["about"] = self.about
        if self.pickled:
            entry["pickled"] = self.pickled
        return entry

    def _hashing(self) -> list[BackgroundSha256]:
        """Return the hash of each segment. Large segments may still be hashed in the background."""
        if not self._hashes:
            self._hashes = [hashing(segment) for segment in self.segments]
        return self._hashes


def hashing(buffers: Iterable[Buffer]) -> BackgroundSha256:
    """Begin to hash the concatenated buffers; large ones in the background."""
    buffers = list(buffers)
    with BackgroundSha256(sum(memoryview(buffer).nbytes for buffer in buffers)) as found:
        for buffer in buffers:
            found.update(buffer)
    return found
