"""Reading parts, writing segments, and the step's scratch folder. Used by both processes of the runner."""

from __future__ import annotations

import os

from . import protocol
from .errors import RefusedError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .values import Buffer

# hosts of pre-signed URLs sometimes answer 5xx or drop the connection
FETCH_TRIES = 4


# -- scratch folder ------------------------------------------------------------------------------------------


def make_scratch(out: str) -> str:
    """Make an empty private folder; in the output folder when nothing else is writable."""
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


def remove_tree(path: str) -> None:
    """Remove a folder as far as possible; what cannot be removed is left behind."""
    quietly(os.chmod, path, 0o700)
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            quietly(os.unlink, entry.path)
    quietly(os.rmdir, path)


def quietly(call: Any, *args: Any) -> None:
    """Call something whose failure changes nothing."""
    try:  # noqa: SIM105 - contextlib is an import more
        call(*args)
    except OSError:
        pass


def inside(folder: str, name: str, what: str) -> str:
    """Return ``folder/name``.

    :raises RefusedError: the path leaves the folder, or is the folder itself
    """
    path = os.path.normpath(name)
    if not name or "\0" in name or os.path.isabs(path) or path.split(os.sep)[0] in (os.pardir, os.curdir):
        hint = "use a relative path without '..'"
        raise RefusedError("bad_config", f"The {what} {name!r} is not a path inside the step's folder", hint)
    return os.path.join(folder, path)


# -- input ---------------------------------------------------------------------------------------------------


class Parts:
    """Finds parts: a file of the input folder, or wherever ``locations.json`` says."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._locations: dict[str, str] | None = None

    def read(self, segment: dict[str, Any]) -> bytearray:
        """Return the checked bytes of a part.

        :raises RefusedError: it cannot be read, or its bytes are not those that were recorded
        """
        from .values import SegmentError, read_checked

        name = segment["name"]
        try:
            location = self._location(name)
            if location.startswith(("http://", "https://")):
                return _fetch(location, segment)
            with open(os.path.join(self.folder, location), "rb", buffering=0) as stream:
                return read_checked(stream, segment, f"part {name}")
        except SegmentError as error:
            raise RefusedError("infra", f"The step was not started: {error}", _CHANGED) from None
        except (OSError, ValueError) as error:
            raise RefusedError(
                "infra", f"The step was not started: part {name} cannot be read: {error}"
            ) from None

    def _location(self, name: str) -> str:
        if self._locations is None:
            import json

            try:
                with open(os.path.join(self.folder, protocol.LOCATIONS), "rb") as stream:
                    self._locations = json.load(stream)
            except FileNotFoundError:
                self._locations = {}
        location = self._locations.get(name)
        return inside(".", name, "part") if location is None else location


_CHANGED = "somebody changed the stored input after it was written; clear the task to write it anew"


def _fetch(url: str, segment: dict[str, Any]) -> bytearray:
    import time
    import urllib.error
    import urllib.request

    from .values import read_checked

    where = url.partition("?")[0]  # what follows is a signature
    for attempt in range(FETCH_TRIES):
        try:
            with urllib.request.urlopen(url, timeout=60) as stream:  # noqa: S310 - http(s) only, see caller
                return read_checked(stream, segment, f"part {segment['name']}")
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason} for {where}"
            error.close()
            if error.code < 500 and error.code != 429:
                break
        except OSError as error:
            problem = f"{getattr(error, 'reason', error)} for {where}"
        if attempt < FETCH_TRIES - 1:
            time.sleep(2**attempt)
    raise OSError(problem)


def extract(archive: bytearray, folder: str) -> None:
    """Unpack the code archive.

    :raises RefusedError: a member would leave the folder, or is a link
    """
    import io
    import stat
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as code:
        for info in code.infolist():
            inside(folder, info.filename, "member of the code archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise RefusedError(
                    "bad_config", f"The member of the code archive {info.filename!r} is a link"
                )
        code.extractall(folder)


# -- output --------------------------------------------------------------------------------------------------


def write_atomic(path: str, buffers: Iterable[Buffer], is_synced: bool = False) -> None:
    """Write a file that is there completely or not at all."""
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(part, "wb", buffering=0) as stream:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while view:
                    view = view[stream.write(view) :]
            if is_synced:
                _sync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        quietly(os.unlink, part)
        raise


def _sync(descriptor: int) -> None:
    import errno

    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system that cannot
            raise


class Segments:
    """Writes the segments of values that are too large for outcome.json, under names of our own."""

    def __init__(self, folder: str, job: str) -> None:
        self.folder = folder
        self._prefix = "".join(c if c.isalnum() and c.isascii() else "-" for c in job)[:100]
        self._names: list[str] = []

    def save(self, buffers: Iterable[Buffer], sha256: str, size: int) -> str:
        """Write a segment and return its name; see ``values.Encoded.to_entry``."""
        name = self._next()
        write_atomic(os.path.join(self.folder, name), buffers)
        return name

    def save_file(self, path: str) -> dict[str, Any]:
        """Copy a file into a segment, however large, and return the segment."""
        import hashlib

        name, sha256, size = self._next(), hashlib.sha256(), 0
        chunk = memoryview(bytearray(1 << 20))

        def chunks(stream: Any) -> Iterable[Buffer]:
            nonlocal size
            while True:
                count = stream.readinto(chunk)
                if not count:
                    return
                sha256.update(chunk[:count])
                size += count
                yield chunk[:count]

        with open(path, "rb", buffering=0) as stream:
            write_atomic(os.path.join(self.folder, name), chunks(stream))
        return {"sha256": sha256.hexdigest(), "size": size, "name": name}

    def discard(self) -> None:
        """Remove all of them: the outcome will not name them."""
        for name in self._names:
            quietly(os.unlink, os.path.join(self.folder, name))

    def _next(self) -> str:
        os.makedirs(self.folder, exist_ok=True)
        name = f"{self._prefix}.{len(self._names)}.bin"
        self._names.append(name)
        return name
