"""File helpers of the runner: the scratch folder, the input folder, paths inside a folder, atomic writes."""

from __future__ import annotations

import os
import stat

from . import protocol
from .failures import RefusedError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .hashing import Buffer


# ``--mounted 1``: the output folder is a bucket that the service mounts. Such a folder may have no rename and
# no links, so files are written under their final names
is_mounted = False

# Masks the step's secrets in the lines of the parent process, once the step has begun
mask: Any = None

# The step may set another umask. Without the first one, the host could not read the files of the runner
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def make_scratch(out: str) -> str:
    """Make an empty private folder: in TMPDIR, ``/tmp``, ``/var/tmp`` or, at last, the output folder.

    :raises StepError: none of them is writable
    """
    problem: OSError | None = None
    for base in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", out):  # noqa: S108 - mkdir refuses an existing name
        if base and os.path.isabs(base):
            path = os.path.join(base, f"stepop-{os.urandom(8).hex()}")
            try:
                os.mkdir(path, 0o700)
            except OSError as error:
                problem = error
            else:
                return os.path.realpath(path)
    raise StepError("infra", f"No folder is writable for the step's scratch files: {problem}")


def modules_folder(scratch: str) -> str:
    """Return the folder of :func:`.dag_module.share`: beside the scratch folder, which the step may list."""
    return scratch + "-modules"


def remove_tree(path: str, parent: int | None = None) -> None:
    """Remove a folder and its contents. Entries that cannot be removed stay; no error is raised.

    No link is followed: a path that is a link stays as it is.

    :param parent: descriptor of the folder that a relative path starts from
    """
    try:
        folder = _open_folder(path, parent)
    except OSError:
        return
    try:
        quietly(os.fchmod, folder, 0o700)
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.name, folder)
            else:
                quietly(os.unlink, entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    quietly(os.rmdir, path, dir_fd=parent)


def _open_folder(path: str, parent: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(path, flags, dir_fd=parent)
    except PermissionError:
        if stat.S_ISDIR(os.lstat(path, dir_fd=parent).st_mode):
            os.chmod(path, 0o700, dir_fd=parent)
        return os.open(path, flags, dir_fd=parent)


def quietly(call: Any, *args: Any, **options: Any) -> None:
    """Call a function and ignore its ``OSError``."""
    try:  # noqa: SIM105 - contextlib is an import more
        call(*args, **options)
    except OSError:
        pass


def report(text: str) -> None:
    """Write a line of the runner to descriptor 2, because the step may have replaced ``sys.stderr``.

    The text may have names and values from a bucket, so whoever can write there could have a receipt printed.
    Therefore the prefix of a receipt is changed.
    """
    text = mask(text) if mask else text
    for prefix in (protocol.RECEIPT_PREFIX, protocol.FRAME_PREFIX):
        text = text.replace(prefix.rstrip(), prefix.rstrip().replace("-", "_"))
    quietly(os.write, 2, f"stepop: {text}\n".encode("utf-8", "backslashreplace"))


def read_input(options: Mapping[str, str], name: str) -> bytes:
    """Return the bytes of a file of the input folder, which may be sealed.

    :param options: those of the runner
    :raises FileNotFoundError: there is no such file
    :raises OSError: the file cannot be read
    :raises StepError: the sealed file was changed
    """
    if "seal" in options:
        from .sealing import read_sealed

        return read_sealed(options, name)
    with open(os.path.join(options["in"], name), "rb") as stream:
        return stream.read()


def read_table(options: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """Return the JSON object in a file of the input folder; ``None`` if there is no file.

    :raises OSError: the file cannot be read
    :raises ValueError: the file is not a JSON object
    :raises StepError: as :func:`read_input`
    """
    import json

    try:
        data = read_input(options, name)
    except FileNotFoundError:
        return None
    try:
        if data[:2] == b"\x1f\x8b":  # compressed with gzip
            import zlib

            data = zlib.decompress(data, 31)
        found = json.loads(data)
    except Exception:  # zlib.error, ValueError, RecursionError
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not a JSON object")  # noqa: TRY004 - of a file, not of an argument
    return found


def inside(folder: str, name: str, what: str) -> str:
    """Return ``folder/name``.

    :param what: kind of path, for the message: input, output, ...
    :raises RefusedError: the path leaves the folder, or is the folder itself
    """
    path = os.path.normpath(name)
    if not name or "\0" in name or os.path.isabs(path) or path.split(os.sep)[0] in (os.pardir, os.curdir):
        hint = "use a relative path without '..'"
        raise RefusedError("bad_config", f"The {what} {name!r} is not a path inside the step's folder", hint)
    return os.path.join(folder, path)


def write_atomic(path: str, buffers: Iterable[Buffer], is_synced: bool = False) -> None:
    """Write a file atomically: a reader sees the whole file or none. A missing folder is made.

    In a mounted folder, a killed runner leaves a torn file, so a reader must know the SHA-256.

    :param is_synced: call ``fsync`` before the rename, so that the file survives a crash of the host
    :raises OSError: the file cannot be written
    """
    part = path if is_mounted else f"{path}.part-{os.getpid()}"
    os.umask(_UMASK)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(part, "wb", buffering=0) as stream:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while view:
                    view = view[stream.write(view) :]
            if is_synced:
                _sync(stream.fileno())
        if not is_mounted:
            os.replace(part, path)
    except BaseException:
        quietly(os.unlink, part)
        raise


def _sync(descriptor: int) -> None:
    import errno

    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # file system without fsync
            raise
