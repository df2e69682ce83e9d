"""Writes values that are too large for ``outcome.json`` into files of the store's folder.

Used by :mod:`.step`. :mod:`.uploads` has the same methods, for jobs that cannot reach such a folder.
"""

from __future__ import annotations

import os

from .files import quietly, write_atomic
from .hashing import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .hashing import Buffer
    from .wire import Location, Segment


class Segments:
    """Writes segments as files named ``<job>.<number>.bin``, and removes them if the step fails."""

    def __init__(self, folder: str, job: str) -> None:
        self.folder = folder
        self._prefix = "".join(c if c.isalnum() and c.isascii() else "-" for c in job)[:100]
        self._names: list[str] = []

    def save(self, buffers: Iterable[Buffer]) -> Location:
        """Write a segment and return its location; called by ``Encoded.to_entry``."""
        name = self._next()
        write_atomic(os.path.join(self.folder, name), buffers)
        return {"name": name}

    def save_file(self, path: str) -> Segment:
        """Copy a file of any size into a segment, and return the segment's entry."""
        name, found, size = self._next(), sha256(os.path.getsize(path)), 0
        chunk = memoryview(bytearray(1 << 20))

        def chunks(stream: Any) -> Iterable[Buffer]:
            nonlocal size
            while True:
                count = stream.readinto(chunk)
                if not count:
                    return
                found.update(chunk[:count])
                size += count
                yield chunk[:count]

        with open(path, "rb", buffering=0) as stream:
            write_atomic(os.path.join(self.folder, name), chunks(stream))
        return {"sha256": found.hexdigest(), "size": size, "name": name}

    def finish(self) -> None:
        """Do nothing: :meth:`save` has written each segment already."""

    def discard(self) -> None:
        """Remove all segments, because the outcome will not name them."""
        for name in self._names:
            quietly(os.unlink, os.path.join(self.folder, name))

    def _next(self) -> str:
        name = f"{self._prefix}.{len(self._names)}.bin"
        self._names.append(name)
        return name
