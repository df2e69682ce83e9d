"""What a store is. Called by the payload (parts in), the results (values out) and the lifecycle of a step
(where results go), whatever lies behind it: a folder, or a bucket.
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

# Names of files need not be UTF-8
quote = partial(urllib.parse.quote, errors="surrogateescape")
unquote = partial(urllib.parse.unquote, errors="surrogateescape")

# memory that a size takes which nobody has checked
TRUSTED_BYTES = 16 << 20


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells about one object; ``modified_at`` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float


class PathRange(NamedTuple):
    """Bytes of one object, from ``offset`` on; without one, all of the object."""

    path: str
    size: int
    offset: int | None = None


class Store(ABC):
    """One object store or folder; ``configured.open_store`` makes one from an address.

    Writes are atomic and create-only: an object is there whole or not at all, and never changes unless it is
    damaged.

    :param url: the address, without a slash at its end
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def is_same(self, configured: Store) -> bool:
        """Return whether this is another name of a configured store."""
        return self.url == configured.url

    def uri(self, path: str) -> str:
        return f"{self.url}/{quote(path)}"

    def path_of(self, uri: str) -> str | None:
        """Return the path inside this store that ``uri`` means; ``None`` when it points elsewhere."""
        prefix = self.url + "/"
        path = unquote(uri.removeprefix(prefix))
        is_name = "\0" not in path and not any("\ud800" <= letter < "\udc80" for letter in path)
        is_inside = uri.startswith(prefix) and not {"", ".", ".."} & set(path.split("/"))
        return path if is_name and is_inside else None

    @abstractmethod
    def put_new(self, path: str, *buffers: Buffer) -> bool:
        """Write the buffers in a row unless the object is there already; return whether it was written.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def put(self, path: str, *buffers: Buffer) -> None:
        """Write the buffers in a row in place of what is there; who reads meanwhile gets one or the other.

        Only for an object that is damaged.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def fill(self, ranges: Sequence[PathRange], view: memoryview) -> Iterator[memoryview]:
        """Read the ranges in a row into ``view``; yield each part of it once it is filled, in order.

        :raises StoreError: an object is gone, cannot be read, or has not the bytes that are asked for
        """

    @abstractmethod
    def delete_folder(self, path: str) -> None:
        """Delete everything below ``path``; nothing there is not an error."""

    @abstractmethod
    def objects(self, path: str) -> Iterator[StoredObject]:
        """Yield every object below the folder ``path``, with its size and its age.

        :raises StoreError: the store cannot be listed
        """

    def list(self, path: str) -> Iterator[str]:
        """Yield the path of every object below the folder ``path``."""
        for found in self.objects(path):
            yield found.path

    def read(self, path: str, size: int) -> bytearray:
        """Return the object's bytes, writable.

        :raises StoreError: the object is gone, cannot be read, or has another size
        """
        path_range = PathRange(path, size)
        self.check_sizes([path_range])
        data = bytearray(size)
        for _ in self.fill([path_range], memoryview(data)):
            pass
        return data

    def check_sizes(self, ranges: Sequence[PathRange]) -> None:
        """Look whether objects are as large as somebody says, before memory is taken for them.

        :raises StoreError: one is smaller
        """
        for path_range in ranges:
            end = (path_range.offset or 0) + path_range.size
            if path_range.size > TRUSTED_BYTES and self.size_of(path_range.path) < end:
                raise self.wrong_size(path_range.path, path_range.size)

    @abstractmethod
    def size_of(self, path: str) -> int:
        """Return how many bytes an object has.

        :raises StoreError: it is gone or cannot be read
        """

    def wrong_size(self, path: str, size: int) -> StoreError:
        return StoreError(f"{self.uri(path)} is not the {size} bytes that were recorded for it")
