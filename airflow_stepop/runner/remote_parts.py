"""Reads a part from pre-signed URLs, or from several pieces. Imported only by steps that have such parts."""

from __future__ import annotations

import os

from .entries import SegmentError
from .files import report
from .hashing import ReadBuffer, sha256
from .threads import Progress, in_order
from .urls import check_size, get
from .values import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .hashing import Buffer
    from .wire import Ranges, Segment

# bytes of one request, and requests at the same time
RANGE_BYTES = 16 << 20
THREADS = 8


def read_ranges(folder: str, location: Any, segment: Segment, codec: str) -> Buffer:
    """Return the checked bytes of a part. Requests run in parallel, and hashing runs beside them.

    :param location: the URL of the whole part, or a list of [path or URL, offset, size]
    :raises SegmentError: the size or SHA-256 is not the recorded one
    :raises OSError: the part cannot be read
    :raises ValueError: ``location`` is malformed
    """

    name, size = f"part {segment['name']}", segment["size"]
    whole = name if isinstance(location, str) else ""
    ranges: Ranges = [[location, 0, size]] if isinstance(location, str) else location
    if not all(map(_is_range, ranges)):
        raise ValueError("it is not a list of ranges in locations.json")
    there = sum(count for _, _, count in ranges)
    if there != size:
        raise SegmentError(f"{name} has {there} bytes and not the {size} that were recorded")
    if whole and size > RANGE_BYTES:
        check_size(location, size, name)  # before memory is allocated for a wrong size
    data = ReadBuffer(size, codec)
    digest = _filled(folder, ranges, data.view, name, whole)
    check(name, segment, size, digest)
    return data.whole()


def _filled(folder: str, ranges: Ranges, view: memoryview, name: str, whole: str) -> str:
    """Read ranges into ``view`` and return their SHA-256. The function keeps no part of the view."""
    jobs = _requests(ranges, view)
    progress = Progress(f"reading {name}", len(view), report)

    def read(job: tuple[str, int, memoryview]) -> memoryview:
        where, offset, part = job
        if where.startswith(("http://", "https://")):
            get(where, offset, part, whole if len(jobs) == 1 else "")
        else:
            _read_range(os.path.join(folder, where), offset, part)
        progress.add(len(part))
        return part

    found = sha256(len(view))
    for part in in_order(read, jobs, THREADS, progress.tick):
        found.update(part)
    progress.end()
    return str(found.hexdigest())


def _requests(ranges: Ranges, view: memoryview) -> list[tuple[str, int, memoryview]]:
    """Cut ranges into requests: (path or URL, offset, memory to fill)."""
    found, at = [], 0
    for where, offset, count in ranges:
        for begin in range(0, count, RANGE_BYTES):
            part = view[at : at + min(RANGE_BYTES, count - begin)]
            found.append((where, offset + begin, part))
            at += len(part)
    return found


def _is_range(data: Any) -> bool:
    return (
        isinstance(data, list)
        and len(data) == 3
        and isinstance(data[0], str)
        and all(type(number) is int and number >= 0 for number in data[1:])
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
