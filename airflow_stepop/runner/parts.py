"""Reads the parts of the payload and unpacks the code archive. Used by :mod:`.step` in the child process."""

from __future__ import annotations

import os

from . import protocol
from .entries import SegmentError
from .failures import RefusedError
from .files import inside, read_table
from .sizes import shown_size
from .values import read_checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .hashing import Buffer
    from .wire import Locations, Ranges, Segment


class Parts:
    """Reads parts from the location in ``locations.json``, or else from the input folder.

    In the input folder, a part has its name; or its SHA-256, where several submits write into one folder.

    :param options: those of the runner
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options
        self.folder = options["in"]
        self._locations: Locations | None = None

    def read(self, segment: Segment, codec: str = "") -> Buffer:
        """Return the bytes of a part after a check of their size and SHA-256.

        :param codec: codec of the value in the part
        :raises RefusedError: the part cannot be read, or its size or SHA-256 is not the recorded one
        """
        name = segment["name"]
        try:
            location = self._location(segment)
            if isinstance(location, str) and not _is_url(location):
                return _read_file(os.path.join(self.folder, location), segment, codec)
            from .remote_parts import read_ranges

            return read_ranges(self.folder, location, segment, codec)
        except ImportError:  # remote_parts is not in the zipapp of a step without remote parts
            raise RefusedError(
                "infra", f"The step was not started: the location of part {name} is not a path"
            ) from None
        except SegmentError as error:
            raise RefusedError("infra", f"The step was not started: {error}", _changed(location)) from None
        except (OSError, ValueError) as error:
            raise RefusedError(
                "infra", f"The step was not started: part {name} cannot be read: {error}"
            ) from None

    def _location(self, segment: Segment) -> str | Ranges:
        if self._locations is None:
            self._locations = read_table(self.options, protocol.LOCATIONS) or {}
        location = self._locations.get(segment["name"])
        if location is None:
            path, by_digest = (inside(".", segment[key], "part") for key in ("name", "sha256"))
            has_name = os.path.exists(os.path.join(self.folder, path))
            return path if has_name or not os.path.exists(os.path.join(self.folder, by_digest)) else by_digest
        return location if isinstance(location, list) else str(location)


def _changed(location: str | Ranges) -> str:
    if not isinstance(location, str):
        return "the stored input was changed after it was written; clear the task to write it again"
    where = location.partition("?")[0]  # without the signature of a pre-signed URL
    return f"the stored input was changed after it was written: delete {where}, then clear the task"


def _read_file(path: str, segment: Segment, codec: str) -> Buffer:
    # Non-blocking: a named pipe without a writer must not block the step
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
        there = os.fstat(stream.fileno()).st_size
        return read_checked(stream, segment, f"part {segment['name']}", there, codec)


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def extract(archive: Buffer, folder: str) -> None:
    """Unpack the code archive into ``folder``.

    :raises RefusedError: a member would lie outside the folder, is a link or occurs twice; or the archive is
        too large or damaged
    """
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as code:
            members = code.infolist()
            _check_members(folder, members)
            code.extractall(folder)
            for info in members:
                if info.external_attr >> 16 & 0o100:  # extractall drops the executable bit
                    os.chmod(os.path.join(folder, info.filename), 0o700)
    except RefusedError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors, and the disk may be full
        raise RefusedError(
            "infra",
            f"The step was not started: its code archive cannot be unpacked: {type(error).__name__}: {error}",
            "check that the step has free disk space; clear the task to build the archive again",
        ) from None


def _check_members(folder: str, members: list[Any]) -> None:
    import stat

    names = set()
    for info in members:
        path = inside(folder, info.filename, "member of the code archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise RefusedError("bad_config", f"The member of the code archive {info.filename!r} is a link")
        if path in names:
            raise RefusedError("bad_config", f"The code archive has {info.filename!r} twice")
        names.add(path)
    size = sum(info.file_size for info in members)
    if size > protocol.CODE_BYTES:
        raise RefusedError(
            "bad_config",
            f"The code archive has {shown_size(size)}; the limit is {shown_size(protocol.CODE_BYTES)}",
            "pass large data as an argument or keep it in the store",
        )
