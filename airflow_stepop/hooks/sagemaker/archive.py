"""Reads the step's files out of ``model.tar.gz``, where a job's output is one archive.

Called by ``outcome.py``.

Other files than the step's lie in the archive, too, and others may have written it. So the archive is read
from the store piece by piece and never lies on the disk as a whole, and everything in it is bounded: what is
read, what it unpacks to, the number of its members, and the headers of each member.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_stepop.core.units import shown_size
from airflow_stepop.hooks.sagemaker.places import OUTPUT_FOLDER
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.bucket import CHUNK_BYTES

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store

ARCHIVE_BYTES = 32 << 30  # of the archive itself
UNPACKED_BYTES = 64 << 30  # of everything in it
MEMBERS = 100_000  # in all
OWN_BYTES = 4 << 30  # of the step's files
OWN_FILES = 10_000
HEADER_BYTES = 1 << 20  # of one member, with all that tar writes in front of it
COPY_BYTES = 1 << 20
HINT = "leave CompressionType out of settings.overrides: the files then come one by one"


def own_files(store: Store, path: str, plain: BinaryIO) -> Iterator[str]:
    """Yield the name of each of the step's files in an archive, while ``plain`` holds its bytes.

    Links, special files and names with ``..`` are left out.

    :param path: path of the archive in the store
    :param plain: a file, which is written anew for each name
    :raises ValueError: the archive, or something in it, is too large, or the members are too many
    :raises StoreError: the store cannot be read
    """
    unpacked = _Unpacked(store, path)
    count = own_count = own_size = 0
    tar: Any  # the type stubs of tarfile know neither members nor that headers change
    with tarfile.open(fileobj=cast(Any, unpacked), mode="r:") as tar:
        while True:
            unpacked.allow(HEADER_BYTES)
            member = tar.next()
            if member is None:
                return
            tar.members.clear()  # else they fill the memory
            tar.pax_headers.clear()
            count += 1
            if count > MEMBERS:
                raise ValueError(f"it holds more than {MEMBERS} files; {HINT}")
            folder, _, name = member.name.removeprefix("./").partition("/")
            if folder != OUTPUT_FOLDER or not member.isreg() or ".." in name.split("/") or not name:
                continue
            own_count, own_size = own_count + 1, own_size + member.size
            if own_count > OWN_FILES or own_size > OWN_BYTES:
                raise ValueError(
                    f"it holds more than {OWN_FILES} files or {shown_size(OWN_BYTES)} of the step; {HINT}"
                )
            unpacked.allow(member.size)
            _copy(tar.extractfile(member), plain)
            yield name


def _copy(data: Any, plain: BinaryIO) -> None:
    plain.seek(0)
    plain.truncate()
    shutil.copyfileobj(data, plain, COPY_BYTES)
    plain.flush()


class _Unpacked:
    """The bytes of a compressed archive. Refuses to read more than :meth:`allow` says.

    :raises ValueError: the archive is larger than :data:`ARCHIVE_BYTES`
    """

    def __init__(self, store: Store, path: str) -> None:
        size = store.size_of(path)
        if size > ARCHIVE_BYTES:
            limit = shown_size(ARCHIVE_BYTES)
            raise ValueError(f"it has {shown_size(size)}, and at most {limit} are read; {HINT}")
        self._stream = gzip.GzipFile(fileobj=io.BufferedReader(_Object(store, path, size), 1 << 16))
        self._left = HEADER_BYTES

    def allow(self, size: int) -> None:
        """Let so many bytes be read from now on. What is skipped does not count."""
        self._left = size

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise ValueError(f"it wants to read {size} bytes of a header, and {self._left} are allowed")
        self._left -= size
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > UNPACKED_BYTES:
            raise ValueError(f"it holds more than {shown_size(UNPACKED_BYTES)}; {HINT}")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Object(io.RawIOBase):
    """An object of a store as a stream. Holds one piece of it in the memory."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store, self._path, self._size = store, path, size
        self._at, self._piece = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece and self._at < self._size:
            piece = bytearray(min(CHUNK_BYTES, self._size - self._at))
            for _ in self._store.fill([PathRange(self._path, len(piece), self._at)], memoryview(piece)):
                pass
            self._at, self._piece = self._at + len(piece), memoryview(piece)
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count
