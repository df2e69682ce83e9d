"""Takes a folder into use only if no other user can change what lies in it. Standard library only.

The runner uses it for the cache of requirements and for checkpoints, the host for the folders of local jobs,
of GPU locks and of the store. Steps run what lies there, so whoever may write there runs code as this user.

Owners are compared with the owner of a file that this process has just written. So a file system that gives
files another owner (NFS with root_squash, a volume with fsGroup) is no problem.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class NotPrivateError(OSError):
    """Another user can change what lies in the folder. The text says which folder, and why."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # with one argument, `str()` of an OSError is the text itself


def take_folder(path: str, is_strict: bool = False) -> None:
    """Make a folder for this user only (mode 0700), or take an existing one.

    :param path: absolute path; missing parents are made, too
    :param is_strict: refuse also a parent of another user, who could put another folder in place of this one
    :raises NotPrivateError: the path is a link or no folder; other users may write to it; another user owns
        it; or other users may replace it, since its parent is open to all and has no sticky bit
    :raises OSError: the folder cannot be made, or nothing can be written to it
    """
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivateError(f"{path} is a link, or no folder")
    if _is_open(path, found):
        raise NotPrivateError(f"all users may write to {path}")
    parent = os.path.dirname(os.path.realpath(path))
    above = os.stat(parent)
    if _is_open(parent, above) and not above.st_mode & stat.S_ISVTX:
        raise NotPrivateError(f"all users may replace {path}: {parent} is open to all and has no sticky bit")
    own = _owner_of_new_file(path)
    if found.st_uid not in (own, 0):
        raise NotPrivateError(f"{path} belongs to the user {found.st_uid}, and this process writes as {own}")
    if is_strict and above.st_uid not in (own, os.geteuid(), 0) and not os.path.ismount(parent):
        raise NotPrivateError(
            f"the user {above.st_uid} may replace {path}: {parent} belongs to that user, and this process "
            f"writes as {own}"
        )


def remarks(path: str) -> Iterator[str]:
    """Yield what an administrator should know about an existing folder, though it is no error.

    :raises OSError: the folder cannot be read
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        yield f"{path} has the mode {mode:04o}: other users may {_rights(mode)}"
    parent = os.path.dirname(os.path.realpath(path))
    above = os.stat(parent)
    if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        yield f"other users may replace {path}: its parent has the mode {stat.S_IMODE(above.st_mode):04o}"
    if above.st_uid not in (os.geteuid(), 0):
        yield f"the user {above.st_uid} may replace {path}: its parent belongs to that user"


def _rights(mode: int) -> str:
    return "write to it" if mode & 0o022 else "read it"


def _is_open(path: str, found: os.stat_result) -> bool:
    """Return whether all users may write. The root of a volume in a container often allows it (emptyDir)."""
    is_volume = not found.st_mode & stat.S_ISVTX and os.path.ismount(path)
    return bool(found.st_mode & stat.S_IWOTH) and not is_volume


def _owner_of_new_file(folder: str) -> int:
    named = ""
    try:  # a file without a name, of which a kill leaves nothing; not every system and file system has them
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except (AttributeError, OSError):
        named = os.path.join(folder, f".probe-{os.urandom(4).hex()}")
        descriptor = os.open(named, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        if named:
            os.unlink(named)
