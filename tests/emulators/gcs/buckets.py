"""Buckets with their objects and unfinished multipart uploads. Lists see every write at once."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from tests.emulators.gcs.errors import (
    ApiError,
    invalid_argument,
    no_such_bucket,
    no_such_key,
    no_such_upload,
    precondition_failed,
)

LEAST_PART_BYTES = 5 << 20
MOST_PARTS = 10_000
_generation = itertools.count(int(time.time() * 1e6))


@dataclass(frozen=True)
class Object:
    """One generation of an object. Those of a multipart upload have no MD5, and their ETag is another one."""

    name: str
    data: bytes
    etag: str
    md5: str = ""
    content_type: str = "application/octet-stream"
    generation: int = field(default_factory=lambda: next(_generation))
    updated: float = field(default_factory=time.time)


def new_object(name: str, data: bytes, content_type: str) -> Object:
    md5 = hashlib.md5(data).hexdigest()
    return Object(name, data, f'"{md5}"', md5, content_type)


@dataclass
class Upload:
    """A multipart upload; ``parts``: number -> (ETag, data)."""

    name: str
    content_type: str
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A page of a listing; ``token`` leads to the next one."""

    objects: list[Object]
    prefixes: list[str]
    token: str | None


class Bucket:
    """A bucket. All methods may be called by several threads.

    :param location: such as ``US-CENTRAL1``, ``US`` or ``NAM4``
    :param kind: ``region``, ``multi-region`` or ``dual-region``
    """

    def __init__(self, name: str, location: str = "US-CENTRAL1", kind: str = "region") -> None:
        self.name, self.location, self.kind = name, location, kind
        self.is_public = False
        self.requester_pays = False
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self._lock = threading.RLock()

    def get(self, name: str) -> Object:
        found = self.objects.get(name)
        if found is None:
            raise no_such_key(self.name, name)
        return found

    def put(self, new: Object, generation: str | None) -> Object:
        """Write an object.

        :param generation: the generation that the object must have; 0: there must be no such object
        """
        with self._lock:
            self.check_generation(new.name, generation)
            self.objects[new.name] = new
        return new

    def delete(self, name: str, generation: str | None) -> None:
        with self._lock:
            self.get(name)
            self.check_generation(name, generation)
            del self.objects[name]

    def check_generation(self, name: str, wanted: str | None) -> None:
        if wanted is None:
            return
        if not wanted.isdigit():
            raise invalid_argument(f"Invalid generation: {wanted}")
        found = self.objects.get(name)
        if (found.generation if found else 0) != int(wanted):
            raise precondition_failed()

    # -- multipart uploads

    def begin(self, name: str, content_type: str) -> str:
        key = secrets.token_urlsafe(24)
        with self._lock:
            self.uploads[key] = Upload(name, content_type)
        return key

    def upload(self, key: str, name: str) -> Upload:
        found = self.uploads.get(key)
        if found is None or found.name != name:
            raise no_such_upload()
        return found

    def put_part(self, key: str, name: str, number: str, data: bytes) -> str:
        if not number.isdigit() or not 1 <= int(number) <= MOST_PARTS:
            raise invalid_argument(f"Part number must be between 1 and {MOST_PARTS}")
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        with self._lock:
            self.upload(key, name).parts[int(number)] = etag, data
        return etag

    def finish(self, key: str, name: str, wanted: list[tuple[int, str]]) -> Object:
        with self._lock:
            upload = self.upload(key, name)
            numbers = [number for number, _ in wanted]
            if not wanted or numbers != sorted(set(numbers)):
                raise ApiError(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
            if any(upload.parts.get(number, ("",))[0].strip('"') != etag for number, etag in wanted):
                raise ApiError(400, "InvalidPart", "One or more of the specified parts could not be found.")
            pieces = [upload.parts[number][1] for number in numbers]
            if any(len(piece) < LEAST_PART_BYTES for piece in pieces[:-1]):
                raise ApiError(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum.")
            data, etag = b"".join(pieces), f'"{secrets.token_hex(8)}-{len(pieces)}"'
            found = Object(name, data, etag, content_type=upload.content_type)
            self.objects[name] = found
            del self.uploads[key]
        return found

    def abort(self, key: str, name: str) -> None:
        with self._lock:
            self.upload(key, name)
            del self.uploads[key]

    # -- listings

    def page(self, prefix: str, delimiter: str, after: str, token: str, most: int) -> Page:
        """Return up to ``most`` objects and prefixes, in the order of their names in UTF-8."""
        with self._lock:
            objects = dict(self.objects)
        names = sorted(objects, key=str.encode)
        keys = [name.encode() for name in names]
        begin = max(
            bisect_left(keys, prefix.encode()),
            bisect_right(keys, after.encode()) if after else 0,
            bisect_right(keys, token.encode()) if token else 0,
        )
        found: list[Object] = []
        prefixes: list[str] = []
        last = ""
        for name in names[begin:]:
            if not name.startswith(prefix):
                break
            head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            folder = prefix + head + mark if mark else ""
            if folder and prefixes and prefixes[-1] == folder:
                last = name
                continue
            if folder and token.startswith(folder):  # the page before has this prefix
                continue
            if len(found) + len(prefixes) == most:
                return Page(found, prefixes, last)
            if folder:
                prefixes.append(folder)
            else:
                found.append(objects[name])
            last = name
        return Page(found, prefixes, None)


class Buckets:
    """All buckets."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def add(self, name: str, location: str = "US-CENTRAL1", kind: str = "region") -> Bucket:
        self._buckets[name] = Bucket(name, location, kind)
        return self._buckets[name]

    def find(self, name: str) -> Bucket:
        found = self._buckets.get(name)
        if found is None:
            raise no_such_bucket()
        return found
