"""The interface of a store, which ``folder.py`` and ``bucket.py`` implement.

Called by the payload (writes parts), the results (read values), the lifecycle of a step (names the folder for
results) and the garbage collection (lists and deletes).
"""

from __future__ import annotations

import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.exceptions import StoreError

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer

# File names need not be valid UTF-8
quote = partial(urllib.parse.quote, errors="surrogateescape")
unquote = partial(urllib.parse.unquote, errors="surrogateescape")

# Largest size in bytes for which memory is allocated without asking the store for the real size first
TRUSTED_BYTES = 16 << 20
MOST_SKIPPED = 20  # entries of listings that are named


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing; ``size`` in bytes, ``modified_at`` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float


class PathRange(NamedTuple):
    """``size`` bytes of one object, beginning at ``offset``; ``offset=None`` means the whole object."""

    path: str
    size: int
    offset: int | None = None


class Store(ABC):
    """One object store or folder; ``configured.open_store`` makes one from an address.

    Writes are atomic: an object exists completely or not at all. Writes are create-only: an object never
    changes. The only exception is :meth:`put`.

    ``skipped`` has texts about the first entries that listings of this object have left out because nobody
    who uses this interface has made them, such as ``results/a is a link``.

    :param url: the address, without a trailing slash
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.skipped: list[str] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def is_same(self, configured: Store) -> bool:
        """Return whether this store is the configured one, perhaps under another spelling."""
        return self.url == configured.url

    def uri(self, path: str) -> str:
        """Return the URI of the object at ``path``; the inverse of :meth:`path_of`."""
        return f"{self.url}/{quote(path)}"

    def path_of(self, uri: str) -> str | None:
        """Return the path inside this store that ``uri`` points to; ``None`` if ``uri`` points elsewhere."""
        prefix = self.url + "/"
        path = unquote(uri.removeprefix(prefix))
        is_name = "\0" not in path and not any("\ud800" <= letter < "\udc80" for letter in path)
        is_inside = uri.startswith(prefix) and not {"", ".", ".."} & set(path.split("/"))
        return path if is_name and is_inside else None

    @abstractmethod
    def put_new(self, path: str, *buffers: Buffer) -> bool:
        """Write the joined buffers as one object, unless the object exists; return whether it was written.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def put(self, path: str, *buffers: Buffer) -> None:
        """Write the joined buffers as one object, and replace the object if it exists.

        Only for damaged objects, and for addresses that expire. Meanwhile a reader gets either the old or the
        new object, never a mixture.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def fill(self, ranges: Sequence[PathRange], view: memoryview) -> Iterator[memoryview]:
        """Read the ranges one after another into ``view``; yield each filled part of ``view``, in order.

        :raises StoreError: an object is gone, cannot be read, or does not have the requested bytes
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete one object. An object that does not exist is no error.

        :raises StoreError: the object cannot be deleted
        """

    @abstractmethod
    def delete_folder(self, path: str) -> None:
        """Delete every object below ``path``. A folder that does not exist is no error.

        :raises StoreError: an object cannot be deleted
        """

    @abstractmethod
    def objects(self, path: str) -> Iterator[StoredObject]:
        """Yield every object below the folder ``path``, with its size and its time of modification.

        :raises StoreError: the store cannot be listed
        """

    def list(self, path: str) -> Iterator[str]:
        """Yield the path of every object below the folder ``path``."""
        for found in self.objects(path):
            yield found.path

    def read(self, path: str, size: int) -> bytearray:
        """Return the object's bytes as a writable buffer.

        :param size: the recorded size in bytes
        :raises StoreError: the object is gone, cannot be read, or has another size
        """
        path_range = PathRange(path, size)
        self.check_sizes([path_range])
        data = bytearray(size)
        for _ in self.fill([path_range], memoryview(data)):
            pass
        return data

    def check_sizes(self, ranges: Sequence[PathRange]) -> None:
        """Check that objects are as large as their references claim, before memory is allocated for them.

        A forged or damaged reference could otherwise exhaust the memory. Ranges of up to ``TRUSTED_BYTES``
        are not checked.

        :raises StoreError: an object is smaller than its reference claims, is gone, or cannot be read
        """
        for path_range in ranges:
            end = (path_range.offset or 0) + path_range.size
            if path_range.size > TRUSTED_BYTES and self.size_of(path_range.path) < end:
                raise self.wrong_size(path_range.path, path_range.size)

    @abstractmethod
    def size_of(self, path: str) -> int:
        """Return the size of an object in bytes.

        :raises StoreError: the object is gone or cannot be read
        """

    def skip(self, text: str) -> None:
        """Note that a listing has left out an entry."""
        if text in self.skipped:
            return
        if len(self.skipped) < MOST_SKIPPED:
            self.skipped.append(text)
        elif len(self.skipped) == MOST_SKIPPED:
            self.skipped.append("more entries that are not this package's")

    def wrong_size(self, path: str, size: int) -> StoreError:
        return StoreError(f"{self.uri(path)} is not the {size} bytes that were recorded for it")
