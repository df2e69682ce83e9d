"""Writes large values to pre-signed URLs. Used by :mod:`.step` if the job cannot reach the store's folder.

The segments of an outcome form one stream, which is cut into equal pieces. ``uploads.json`` has a URL for
each piece. The upload begins after the last segment is known, because the piece size depends on the total.

:mod:`.segments` has the same methods, for jobs that can reach a folder.
"""

from __future__ import annotations

import os

from .failures import StepError
from .files import report
from .hashing import sha256
from .sizes import shown_size
from .values import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from . import wire
    from .hashing import Buffer
    from .wire import Location, Piece, Segment

THREADS = 8


class Uploads:
    """Keeps references to segments without copying them, and sends all segments in :meth:`finish`.

    :param table: the contents of ``uploads.json``: ``urls`` (name -> URL), ``headers``, ``least_bytes`` and
        ``most_bytes`` of a piece
    """

    def __init__(self, table: wire.Uploads) -> None:
        self.table = table
        self._sources: list[memoryview | str] = []  # bytes, or the path of a file
        self._sizes: list[int] = []
        self._pieces: list[list[Piece]] = []

    def save(self, buffers: Iterable[Buffer]) -> Location:
        """Return a segment's location; called by ``Encoded.to_entry``. :meth:`finish` fills in the pieces."""
        pieces: list[Piece] = []
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            self._add(view, len(view), pieces)
        return {"pieces": pieces}

    def save_file(self, path: str) -> Segment:
        """Hash a file and return the segment's entry. :meth:`finish` fills in the pieces."""
        size = os.path.getsize(path)
        found = sha256(size)
        for data in _read(path, 0, size):
            found.update(data)
        pieces: list[Piece] = []
        self._add(path, size, pieces)
        return {"sha256": found.hexdigest(), "size": size, "pieces": pieces}

    def discard(self) -> None:
        """Drop all segments, because the outcome will not name them."""
        self._sources, self._sizes, self._pieces = [], [], []

    def finish(self) -> None:
        """Send all segments.

        :raises StepError: the segments are too large in all, or an upload failed
        """
        from .threads import Progress, in_order
        from .urls import put  # imported here: threads that import one module together may see half of it

        total, names = sum(self._sizes), list(self.table["urls"])
        if not total:
            return
        count = min(len(names), -(-total // self.table["least_bytes"]))
        size = -(-total // count)
        if size > self.table["most_bytes"]:
            limit = self.table["most_bytes"] * len(names)
            summary = (
                f"The step ran, but its result has {shown_size(total)}, and {shown_size(limit)} are the limit"
            )
            raise StepError("user_error", summary, "return less, or write the result to your own storage")
        jobs = [(name, k * size, min((k + 1) * size, total)) for k, name in enumerate(names[:count])]
        self._note_pieces(size, names)
        progress = Progress("writing the result", total, report)

        def send(job: tuple[str, int, int]) -> None:
            name, begin, end = job
            put(
                self.table["urls"][name], lambda: self._chunks(begin, end), end - begin, self.table["headers"]
            )
            progress.add(end - begin)

        try:
            for _ in in_order(send, jobs, THREADS, progress.tick):
                pass
        except OSError as error:
            hint = "its URLs were signed for timeout and start_timeout: raise timeout"
            summary = f"The step ran, but its result could not be written: {error}"
            raise StepError("infra", summary, hint if "xpired" in summary else "") from None
        progress.end()

    def _add(self, source: memoryview | str, size: int, pieces: list[Piece]) -> None:
        self._sources.append(source)
        self._sizes.append(size)
        self._pieces.append(pieces)

    def _note_pieces(self, piece_bytes: int, names: list[str]) -> None:
        """Add to each entry that :meth:`save` has returned the pieces, offsets and sizes of its bytes."""
        begin = 0
        for size, pieces in zip(self._sizes, self._pieces):
            end = begin + size
            while begin < end:
                index, offset = divmod(begin, piece_bytes)
                count = min(end - begin, piece_bytes - offset)
                last = pieces[-1] if pieces else {}  # type: ignore[typeddict-item] # has no name
                if last.get("name") == names[index]:  # the segment's previous buffer ends in this piece
                    last["size"] += count
                else:
                    pieces.append({"name": names[index], "offset": offset, "size": count})
                begin += count

    def _chunks(self, begin: int, end: int) -> Iterator[Buffer]:
        """Yield the bytes of the stream from ``begin`` to ``end``."""
        at = 0
        for source, size in zip(self._sources, self._sizes):
            first, last = max(begin - at, 0), min(end - at, size)
            at += size
            if first < last:
                yield from _read(source, first, last) if isinstance(source, str) else _cut(source[first:last])


def _cut(view: memoryview) -> Iterator[Buffer]:
    for begin in range(0, len(view), CHUNK_BYTES):
        yield view[begin : begin + CHUNK_BYTES]


def _read(path: str, begin: int, end: int) -> Iterator[Buffer]:
    with open(path, "rb", buffering=0) as stream:
        stream.seek(begin)
        while begin < end:
            data = stream.read(min(CHUNK_BYTES, end - begin))
            if not data:
                raise OSError(f"{path} shrank while it was read")
            begin += len(data)
            yield data
