"""Lists and deletes folders in which others may write, and never follows a link. Standard library only.

The stores, the jobs of this host and ``airflow stepop gc`` use this module. The folder itself (``root``) is
the choice of an administrator, and links may lead to it. Below it, each folder is opened by its descriptor
and without following links, so that nobody can put a link in place of a folder between a look and a deletion.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from airflow_stepop.core.printable import printable_text

DEEPEST = 40  # folders in one another; this package makes at most ten
_NO_NAMES = (".", "..")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class File(NamedTuple):
    """A file below a folder.

    :param path: relative path, with ``/``
    :param size: in bytes
    :param modified_at: in seconds since the epoch
    """

    path: str
    size: int
    modified_at: float


@contextmanager
def opened(root: Path, path: str = "") -> Iterator[int]:
    """Context manager: the descriptor of the folder ``root/path``.

    :raises FileNotFoundError: there is no such folder
    :raises NotADirectoryError: a part of ``path`` is a link, or no folder
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            inner = _open_folder(name, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def files_below(root: Path, path: str, skipped: Callable[[str], None]) -> Iterator[File]:
    """Yield every file below ``root/path``. A folder that does not exist has none.

    :param skipped: called with a text about each entry that is left out, such as ``results/a is a link``: no
        file and no folder, a name that no object of a store has, or too many folders in one another
    :raises OSError: a folder cannot be read
    """
    with suppress(FileNotFoundError), opened(root, path) as descriptor:
        yield from _files(descriptor, path, skipped)


def delete_file(root: Path, path: str) -> None:
    """Delete a file. One that does not exist is no error, and of a link the link goes.

    :raises OSError: the file cannot be deleted, or a folder on the way is a link
    """
    parent, _, name = path.rpartition("/")
    with suppress(FileNotFoundError), opened(root, parent) as descriptor:
        os.unlink(name, dir_fd=descriptor)


def delete_folder(root: Path, path: str) -> None:
    """Delete the folder ``root/path`` and all below it. One that does not exist is no error.

    :param path: not empty
    :raises OSError: something cannot be deleted, or a part of ``path`` is a link
    """
    parent, _, name = path.rpartition("/")
    while True:
        try:
            with opened(root, parent) as descriptor:
                about = os.lstat(name, dir_fd=descriptor)
                if name in _NO_NAMES or not stat.S_ISDIR(about.st_mode):
                    raise NotADirectoryError(f"{shown(path)} is a link, or no folder: it was not deleted")
                shutil.rmtree(name, dir_fd=descriptor)  # opens each folder below without following links
        except FileNotFoundError:
            if not _exists(root, parent, name):
                return  # else another process deletes the same folder
        else:
            return


def delete_empty_folders(root: Path, path: str, *, depth: int, before: float) -> None:
    """Delete the empty folders below ``root/path``. Folders that cannot be read or deleted stay.

    :param depth: only folders at least so far below ``root/path``
    :param before: only folders that nobody has changed since this time, in seconds since the epoch
    """
    with suppress(OSError, RecursionError), opened(root, path) as descriptor:
        found = os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=descriptor)
        for parent, names, _, folder in found:
            if len(Path(parent).parts) + 1 < depth:
                continue
            for name in names:
                with suppress(OSError):  # not empty, a link, or removed by another process
                    if os.lstat(name, dir_fd=folder).st_mtime <= before:
                        os.rmdir(name, dir_fd=folder)


def shown(path: str) -> str:
    """Return a path as a text of one line that is safe to print."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return printable_text(text).replace("\n", "\u240a")


def _files(descriptor: int, path: str, skipped: Callable[[str], None]) -> Iterator[File]:
    with os.scandir(descriptor) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        inner = f"{path}/{entry.name}" if path else entry.name
        if not entry.name.isprintable():
            skipped(f"{shown(inner)} has a name that this package never writes")
        elif entry.is_symlink():
            skipped(f"{shown(inner)} is a link")
        elif entry.is_dir(follow_symlinks=False):
            yield from _files_of(entry.name, descriptor, inner, skipped)
        elif entry.is_file(follow_symlinks=False):
            with suppress(FileNotFoundError):
                about = os.lstat(entry.name, dir_fd=descriptor)
                yield File(inner, about.st_size, about.st_mtime)
        else:
            skipped(f"{shown(inner)} is neither a file nor a folder")


def _files_of(name: str, parent: int, path: str, skipped: Callable[[str], None]) -> Iterator[File]:
    if path.count("/") >= DEEPEST:
        skipped(f"{shown(path)} lies in too many folders")
        return
    try:
        descriptor = _open_folder(name, parent)
    except FileNotFoundError:  # deleted since the parent was listed
        return
    except NotADirectoryError:
        skipped(f"{shown(path)} is a link")
        return
    try:
        yield from _files(descriptor, path, skipped)
    finally:
        os.close(descriptor)


def _open_folder(name: str, parent: int) -> int:
    if name in _NO_NAMES:
        raise NotADirectoryError(f"{name!r} is not the name of a folder")
    return os.open(name, _FOLDER, dir_fd=parent)


def _exists(root: Path, parent: str, name: str) -> bool:
    try:
        with opened(root, parent) as descriptor:
            os.lstat(name, dir_fd=descriptor)
    except FileNotFoundError:
        return False
    return True
