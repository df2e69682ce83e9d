"""Reading the parts of the input folder, and unpacking the code archive."""

from __future__ import annotations

import os

from . import protocol
from .failures import RefusedError
from .files import inside, tell
from .hashing import sha256
from .values import SegmentError, check, read_checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# bytes that one request asks for, and how many requests are under way at once
RANGE_BYTES = 16 << 20
THREADS = 8


class Parts:
    """Finds parts: a file of the input folder, or wherever ``locations.json`` says."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._locations: dict[str, Any] | None = None

    def read(self, segment: dict[str, Any]) -> bytearray:
        """Return the checked bytes of a part.

        :raises RefusedError: it cannot be read, or its bytes are not those that were recorded
        """
        name = segment["name"]
        try:
            location = self._location(name)
            if isinstance(location, str) and not _is_url(location):
                return _read_file(os.path.join(self.folder, location), segment)
            return self._read_places(location, segment)
        except SegmentError as error:
            raise RefusedError("infra", f"The step was not started: {error}", _changed(location)) from None
        except (OSError, ValueError) as error:
            raise RefusedError(
                "infra", f"The step was not started: part {name} cannot be read: {error}"
            ) from None

    def _location(self, name: str) -> Any:
        if self._locations is None:
            self._locations = read_table(os.path.join(self.folder, protocol.LOCATIONS)) or {}
        location = self._locations.get(name)
        if location is None:
            return inside(".", name, "part")
        if isinstance(location, list) and all(map(_is_place, location)):
            return location
        return str(location)

    def _read_places(self, location: Any, segment: dict[str, Any]) -> bytearray:
        """Read a part that lies at a URL, or in several places: in parallel, and hashed as it comes."""
        from .threads import Progress, in_order
        from .urls import (
            check_size,
            get,
        )  # here: threads that import the same module at once may see half of it

        name, size = f"part {segment['name']}", segment["size"]
        whole = name if isinstance(location, str) else ""
        places = [[location, 0, size]] if isinstance(location, str) else location
        there = sum(count for _, _, count in places)
        if there != size:
            raise SegmentError(f"{name} has {there} bytes and not the {size} that were recorded")
        if whole and size > RANGE_BYTES:
            check_size(location, size, name)  # first: a size that is wrong must not take memory
        data, found = bytearray(size), sha256(size)
        jobs = _ranges(places, memoryview(data))
        progress = Progress(f"reading {name}", size, tell)

        def read(job: tuple[str, int, memoryview]) -> memoryview:
            where, offset, part = job
            if _is_url(where):
                get(where, offset, part, whole if len(jobs) == 1 else "")
            else:
                _read_range(os.path.join(self.folder, where), offset, part)
            progress.add(len(part))
            return part

        for part in in_order(read, jobs, THREADS, progress.tick):
            found.update(part)
        progress.end()
        check(name, segment, size, found.hexdigest())
        return data


def _ranges(places: list[list[Any]], view: memoryview) -> list[tuple[str, int, memoryview]]:
    """Cut places into requests: where, from which byte on, and the memory that it fills."""
    found, at = [], 0
    for where, offset, count in places:
        for begin in range(0, count, RANGE_BYTES):
            part = view[at : at + min(RANGE_BYTES, count - begin)]
            found.append((where, offset + begin, part))
            at += len(part)
    return found


def _changed(location: Any) -> str:
    """Return what to do: ``location`` is one place, or a list of them."""
    first = location if isinstance(location, str) else location[0][0]
    where = first.partition("?")[0]  # what follows is a signature
    return f"somebody changed the stored input after it was written: delete {where}, then clear the task"


def _read_file(path: str, segment: dict[str, Any]) -> bytearray:
    # Not blocking: a pipe that nobody writes to must not hold the step up
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
        there = os.fstat(stream.fileno()).st_size
        return read_checked(stream, segment, f"part {segment['name']}", there)


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _is_place(place: Any) -> bool:
    return (
        isinstance(place, list)
        and len(place) == 3
        and isinstance(place[0], str)
        and all(type(number) is int and number >= 0 for number in place[1:])
    )


def _read_range(path: str, offset: int, view: memoryview) -> None:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
        stream.seek(offset)
        done = 0
        while done < len(view):
            count = stream.readinto(view[done:])
            if not count:
                raise SegmentError(f"{path} ends before byte {offset + len(view)}")
            done += count


def read_table(path: str) -> dict[str, Any] | None:
    """Return a JSON object of the input folder, which may be compressed; ``None`` when there is none.

    :raises ValueError: it is not a JSON object
    """
    import json

    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return None
    try:
        if data[:2] == b"\x1f\x8b":
            import zlib

            data = zlib.decompress(data, 31)
        found = json.loads(data)
    except Exception:  # zlib.error, RecursionError and whatever JSON can be
        found = None
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 - of a file, not of an argument
            f"{os.path.basename(path)} is not a JSON object of names and places"
        )
    return found


def extract(archive: bytearray, folder: str) -> None:
    """Unpack the code archive.

    :raises RefusedError: a member would leave the folder, or is a link; it is too large, or no archive
    """
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as code:
            members = code.infolist()
            _check_members(folder, members)
            code.extractall(folder)
            for info in members:
                if info.external_attr >> 16 & 0o100:  # extractall forgets it
                    os.chmod(os.path.join(folder, info.filename), 0o700)
    except RefusedError:
        raise
    except Exception as error:  # zipfile has many, and the disk may be full
        raise RefusedError(
            "infra",
            f"The step was not started: its code archive cannot be unpacked: {type(error).__name__}: {error}",
            "look whether the step has room on its disk; clear the task to make the archive anew",
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
            f"The code archive unpacks to {size:,} bytes; more than {protocol.CODE_BYTES:,} are refused",
            "pass large data as an argument or keep it in the store",
        )
