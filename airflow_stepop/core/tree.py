"""Reads, writes, lists and deletes in folders in which others may write, and never follows a link.

Standard library only.

The stores, the jobs of this host and ``airflow stepop gc`` use this module. The folder itself (``root``) is
the choice of an administrator, and links may lead to it. Below it, each folder is opened by its descriptor
and without following links, so that nobody can put a link in place of a folder between a look and a deletion.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.core.printable import printable_text

if TYPE_CHECKING:
    from airflow_stepop.runner.hashing import Buffer

DEEPEST = 40  # folders in one another; this package makes at most ten
_TRIES = 100  # of a write whose folder another process removes
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


def open_file(root: Path, path: str) -> int:
    """Return a descriptor to read the file ``root/path``.

    :raises OSError: there is no such file, or a part of ``path`` is a link
    """
    parent, _, name = path.rpartition("/")
    with opened(root, parent) as folder:
        # O_NONBLOCK: a named pipe without a writer would block open() for ever
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def write_file(root: Path, path: str, buffers: Iterable[Buffer], *, is_new: bool) -> bool:
    """Write a file, with the folders on its way, and return whether it was written.

    Other processes see the whole file or none. Until then it is named ``<name>#<number>``.

    :param is_new: a file, or a link, that exists stays as it is. Otherwise it is replaced
    :raises OSError: the file cannot be written, or a folder on its way is a link
    """
    parent, _, name = path.rpartition("/")
    data = list(buffers)
    for left in reversed(range(_TRIES)):
        try:
            with _made(root, parent) as folder:
                return _write(folder, name, data, is_new=is_new)
        except FileNotFoundError:  # another process has removed the folder, which was empty
            if not left:
                raise
    raise AssertionError  # the last try returns or raises


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


@contextmanager
def _made(root: Path, path: str) -> Iterator[int]:
    """Context manager: the descriptor of the folder ``root/path``, which is made if it does not exist."""
    os.makedirs(root, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=descriptor)
            inner = _open_folder(name, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _write(folder: int, name: str, buffers: Iterable[Buffer], *, is_new: bool) -> bool:
    if is_new and _is_there(folder, name):
        return False
    draft = f"{name}#{secrets.randbits(48)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o666, dir_fd=folder)
    try:
        with open(descriptor, "wb", buffering=0) as stream:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while view:
                    view = view[stream.write(view) :]
        if not is_new:
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            return True
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
    return True


def _is_there(folder: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _open_folder(name: str, parent: int) -> int:
    if name in _NO_NAMES:
        raise NotADirectoryError(f"{name!r} is not the name of a folder")
    return os.open(name, _FOLDER, dir_fd=parent)


def _exists(root: Path, parent: str, name: str) -> bool:
    try:
        with opened(root, parent) as descriptor:
            return _is_there(descriptor, name)
    except FileNotFoundError:
        return False
