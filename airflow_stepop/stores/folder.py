"""A store that is a folder: of this host, or one that several hosts mount. ``configured.py`` opens it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_stepop.core import tree
from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.runner.values import CHUNK_BYTES
from airflow_stepop.stores.base import PathRange, Store, StoredObject, quote, unquote

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer
# What a job sees of the stores: see path_in_job
THIS_HOST: Mapping[str, str] = MappingProxyType({"file://": ""})
NO_MOUNTS: Mapping[str, str] = MappingProxyType({})
_AT_A_LINK = (errno.ELOOP, errno.ENOTDIR)  # of the file itself, of a folder on its way
_UNFINISHED = re.compile(r"#\d+$")  # a file that is still being written


class FolderStore(Store):
    """A folder of this host, or one that several hosts mount.

    Nothing below the folder is reached by a link: others may be able to write to it.

    :raises StepConfigError: the address is not that of an absolute folder
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.netloc or not parts.path.startswith("/"):
            raise StepConfigError(f"store {url!r} is not an absolute folder; write file:///srv/stepop")
        if parts.query or parts.fragment or url != parts.geturl():
            raise StepConfigError(
                f"store {url!r} has a character with a special meaning in an address; write the folder "
                f"as a path, or as {folder_uri(Path(unquote(url.partition(':')[2].removeprefix('//'))))}"
            )
        self.folder = Path(unquote(parts.path))
        super().__init__(folder_uri(self.folder))

    def put_new(self, path: str, *buffers: Buffer) -> bool:
        return self._put(path, buffers, is_new=True)

    def put(self, path: str, *buffers: Buffer) -> None:
        self._put(path, buffers, is_new=False)

    def _put(self, path: str, buffers: Sequence[Buffer], *, is_new: bool) -> bool:
        self._make()
        try:
            return tree.write_file(self.folder, path, buffers, is_new=is_new)
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            raise self._explain("written", path, error) from error

    def _make(self) -> None:
        """Make the folder of the store, or explain why it cannot be made."""
        try:
            os.makedirs(self.folder, exist_ok=True)
        except (OSError, ValueError) as error:
            raise self._explain("opened", "", error) from error

    def size_of(self, path: str) -> int:
        try:
            descriptor = tree.open_file(self.folder, path)
            try:
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise self._explain("read", path, error) from error

    def fill(self, ranges: Sequence[PathRange], view: memoryview) -> Iterator[memoryview]:
        at = 0
        for path, size, offset in ranges:
            try:
                with open(tree.open_file(self.folder, path), "rb", buffering=0) as file:
                    file.seek(offset or 0)
                    end = at + size
                    while at < end:
                        count = file.readinto(view[at : min(at + CHUNK_BYTES, end)])
                        if not count:
                            raise self.wrong_size(path, size)
                        yield view[at : at + count]
                        at += count
                    if offset is None and file.read(1):
                        raise self.wrong_size(path, size)
            except (OSError, ValueError) as error:
                raise self._explain("read", path, error) from error

    def delete(self, path: str) -> None:
        try:
            tree.delete_file(self.folder, path)
        except (OSError, ValueError) as error:
            raise self._explain("deleted from", path, error) from error

    def delete_folder(self, path: str) -> None:
        place, _, name = str(self.folder).rpartition("/") if not path else (self.folder, "", path)
        try:
            tree.delete_folder(Path(place or "/"), name)
        except (OSError, ValueError, RecursionError) as error:
            raise self._explain("deleted from", path, error) from error

    def objects(self, path: str) -> Iterator[StoredObject]:
        self._make()
        try:
            for found in tree.files_below(self.folder, path, self.skip):
                if not _UNFINISHED.search(found.path):
                    yield StoredObject(*found)
        except (OSError, ValueError) as error:
            raise self._explain("listed", path, error) from error

    def _explain(self, verb: str, path: str, error: Exception) -> StoreError:
        place = self.uri(path) if path else self.url
        if path and isinstance(error, OSError) and error.errno in _AT_A_LINK:
            return StoreError(
                f"the store could not be {verb}: {place}: {error}. Nothing in a store is reached by a link: "
                "if a part of this path is a link, remove it, or name the folder to which it leads in "
                "[stepop] store"
            )
        return StoreError(
            f"the store could not be {verb}: {place}: {error}. "
            "Check that the folder exists, has space, and that this user may write to it, "
            "or name another one in [stepop] store"
        )


def folder_uri(folder: Path) -> str:
    return "file://" + quote(str(folder))


def folder_of(uri: str) -> Path | None:
    """Return the path of a ``file:`` URI; ``None`` for any other URI."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else None


def path_in_job(uri: str, mounts: Mapping[str, str]) -> str | None:
    """Return the path at which a job sees the object or folder ``uri``; ``None`` if the job does not see it.

    :param mounts: what the job sees: prefix of a URI -> prefix of a path, such as ``{"gs://": "/gcs/"}``
    """
    for prefix, folder in mounts.items():
        if uri.startswith(prefix):
            return folder + unquote(uri.removeprefix(prefix))
    return None
