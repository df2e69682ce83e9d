"""Packs a checkpoint folder into one signed file: an uncompressed tar archive, followed by its HMAC-SHA256.

A step usually unpickles its checkpoint, so a forged archive could run code. :func:`verify` therefore refuses
archives that were written without the task's key. :func:`unpack` also refuses members outside the folder.

Used by :mod:`.snapshots`.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import stat
import sys
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

    from .hashing import Buffer

MAC_BYTES = 32
CHUNK_BYTES = 1 << 20


class ForgedError(Exception):
    """The archive was not written with this key, or has contents that :func:`pack` never writes."""


class TooLargeError(Exception):
    """The archive would be larger than the limit."""


def fingerprint(folder: str) -> tuple[str, int]:
    """Return a digest that changes with every change in the folder, and the size of its files in bytes.

    The digest is made of names, modes, inodes, sizes and times; no file is read.

    :raises FileNotFoundError: the folder does not exist
    """
    found, total = hashlib.sha256(), 0
    os.stat(folder)
    for name, path in _entries(folder):
        try:
            info = os.lstat(path)
        except FileNotFoundError:  # removed during the scan; the next scan sees the change
            continue
        times = (info.st_mtime_ns, info.st_ctime_ns) if not stat.S_ISDIR(info.st_mode) else ()
        found.update(repr((name, info.st_mode, info.st_ino, info.st_size, times)).encode())
        total += info.st_size if stat.S_ISREG(info.st_mode) else 0
    return found.hexdigest(), total


def pack(
    folder: str, path: str, key: bytes, most_bytes: int, leave_out: Callable[[str], None]
) -> tuple[int, str]:
    """Write a folder into the archive ``path``; return the archive's size in bytes, and its MD5 in base64.

    The MD5 becomes the header ``Content-MD5``: not every store notices that an upload was cut short.

    :param leave_out: called with the name of each entry that an archive cannot hold
    :raises TooLargeError: the archive would have more than ``most_bytes``
    :raises OSError: a file cannot be read, or the archive cannot be written
    """
    if fingerprint(folder)[1] > most_bytes:  # checked first, so that the disk does not fill up
        raise TooLargeError
    with open(path, "wb") as raw:
        signed: Any = _Signed(raw, key, most_bytes)
        options: Any = {"format": tarfile.PAX_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
        with tarfile.open(fileobj=signed, mode="w", **options) as archive:
            for name, source in _entries(folder):
                if not _add(archive, folder, name, source):
                    leave_out(name)
        signed.finish()
        return raw.tell(), binascii.b2a_base64(signed.md5.digest(), newline=False).decode()


def verify(path: str, *keys: bytes) -> None:
    """Compare an archive with its signature.

    :param keys: one of them must have made the signature
    :raises ForgedError: none of them has
    """
    found = [hmac.new(key, digestmod="sha256") for key in keys]
    with open(path, "rb") as stream:
        left = os.fstat(stream.fileno()).st_size - MAC_BYTES
        while left > 0:
            data = stream.read(min(CHUNK_BYTES, left))
            if not data:
                break
            for one in found:
                one.update(data)
            left -= len(data)
        mac = stream.read()
        if left or not any(hmac.compare_digest(one.digest(), mac) for one in found):
            raise ForgedError("its signature is not that of this task")


def unpack(path: str, folder: str) -> int:
    """Unpack a verified archive into an empty folder; return the number of files.

    :raises ForgedError: a member is of a kind that :func:`pack` never writes, or would lie outside the folder
    :raises OSError: a file cannot be written, for example because the disk is full
    """
    folders: list[tuple[str, tarfile.TarInfo]] = []
    links: list[tuple[str, str]] = []  # made last, so that no file is written through a link
    count = 0
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                target = os.path.join(folder, _checked_name(member.name))
                if member.isdir():
                    os.mkdir(target, 0o700)
                    folders.append((target, member))
                elif member.issym():
                    links.append((target, _checked_link(member)))
                elif member.type == tarfile.REGTYPE:
                    _write(archive.extractfile(member), target)
                    _restore_attributes(target, member)
                    count += 1
                else:
                    raise ForgedError(f"{member.name!r} is neither a file, a folder nor a symbolic link")
    except (tarfile.TarError, FileExistsError) as error:
        raise ForgedError(f"it is not an archive of this runner: {error}") from None
    _make_links(links, folder)
    for target, member in reversed(folders):  # inner folders first: the outer one may become read-only
        _restore_attributes(target, member)
    return count


def chunks(path: str) -> Iterator[Buffer]:
    """Yield the bytes of a file."""
    with open(path, "rb", buffering=0) as stream:
        while True:
            data = stream.read(CHUNK_BYTES)
            if not data:
                return
            yield data


class _Signed:
    """A file object for ``tarfile`` that signs the written bytes, and has a size limit."""

    def __init__(self, raw: IO[bytes], key: bytes, most_bytes: int) -> None:
        self.md5 = _new_md5()
        self._mac = hmac.new(key, digestmod="sha256")
        self._raw = raw
        self._left = most_bytes - MAC_BYTES

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise TooLargeError
        self._mac.update(data)
        self.md5.update(data)
        return self._raw.write(data)

    def finish(self) -> None:
        self.md5.update(self._mac.digest())
        self._raw.write(self._mac.digest())

    def tell(self) -> int:
        return self._raw.tell()


def _new_md5() -> Any:
    new: Any = hashlib.md5
    return new() if sys.version_info < (3, 9) else new(usedforsecurity=False)


def _entries(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the relative name and the path of everything in a folder, always in the same order."""
    pending = [""]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(os.path.join(folder, parent)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed during the scan
        for entry in entries:
            name = f"{parent}/{entry.name}" if parent else entry.name
            yield name, entry.path
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)


def _add(archive: tarfile.TarFile, folder: str, name: str, path: str) -> bool:
    """Add one entry; return ``False`` if an archive cannot hold it (a device, a link to the outside)."""
    found = os.lstat(path)
    member = tarfile.TarInfo(name)
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as stream:
            _describe(member, os.fstat(stream.fileno()))
            member.size = os.fstat(stream.fileno()).st_size
            archive.addfile(member, stream)
        return True
    _describe(member, found)
    if stat.S_ISDIR(found.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        target = os.path.realpath(path)
        root = os.path.realpath(folder)
        if not (target + os.sep).startswith(root + os.sep):
            return False
        member.type = tarfile.SYMTYPE
        # Relative and normalised, because the next try has the folder under another path
        member.linkname = os.path.relpath(target, os.path.dirname(os.path.join(root, name)))
    else:
        return False
    archive.addfile(member)
    return True


def _describe(member: tarfile.TarInfo, found: os.stat_result) -> None:
    member.mode = stat.S_IMODE(found.st_mode) & 0o777
    member.mtime = found.st_mtime


def _checked_name(name: str) -> str:
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise ForgedError(f"{name!r} is not a path inside the folder")
    return name


def _checked_link(member: tarfile.TarInfo) -> str:
    """Return the target of a symbolic link.

    A normalised relative target may pass through other links. All links are checked by this rule, so a target
    whose path lies inside the folder stays inside.

    :raises ForgedError: the target is not normalised, or lies outside the folder
    """
    to = member.linkname
    reached = os.path.normpath(os.path.join(os.path.dirname(member.name), to))
    if (
        not to
        or "\0" in to
        or os.path.isabs(to)
        or os.path.normpath(to) != to
        or reached.split("/")[0] == ".."
    ):
        raise ForgedError(f"{member.name!r} is a link that leads out of the folder, to {to!r}")
    return to


def _make_links(links: list[tuple[str, str]], folder: str) -> None:
    """Make symbolic links, none of them below another one.

    :raises ForgedError: a link lies below a link
    """
    made = {target for target, _ in links}
    for target in made:
        if made.intersection(_parents(target, folder)):
            raise ForgedError(f"{target[len(folder) + 1 :]!r} is a link below a link")
    for target, to in links:
        os.symlink(to, target)


def _parents(target: str, folder: str) -> Iterator[str]:
    """Yield the folders between ``folder`` and ``target``. The system would follow each that is a link."""
    parent = os.path.dirname(target)
    while len(parent) > len(folder):
        yield parent
        parent = os.path.dirname(parent)


def _write(source: IO[bytes] | None, target: str) -> None:
    if source is None:
        return
    with open(target, "xb") as stream:
        while True:
            data = source.read(CHUNK_BYTES)
            if not data:
                return
            stream.write(data)


def _restore_attributes(target: str, member: tarfile.TarInfo) -> None:
    os.utime(target, (member.mtime, member.mtime))
    os.chmod(target, member.mode & 0o777)
