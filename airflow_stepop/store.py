"""The store that Airflow and the steps can both reach, and every path name in it.

::

    parts/<week>/<sha256>    arguments and code too large for a request, by content
    results/<deployment>/<dag>/<run>/<task>/<map>/<job>/<segment>
                             results; they outlive the job that made them
    checkpoints/<deployment>/<dag>/<run>/<task>/<map>/<digest of the arguments>/...
                             what a step left for its next try

``upkeep/garbage.py`` deletes them when nothing needs them any more.

Called by the payload (parts in), the results (values out) and the life of a step (where results go). A folder
is here; object stores are in ``buckets``.
"""

from __future__ import annotations

import os
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from airflow_stepop.core.host import airflow_folder, host_id
from airflow_stepop.core.naming import slug
from airflow_stepop.exceptions import StepConfigError, StoreError, WrongHostError
from airflow_stepop.job import Buffer, Place
from airflow_stepop.runner.hashing import Beside, Memory
from airflow_stepop.runner.values import CHUNK_BYTES, SegmentError, check

if TYPE_CHECKING:
    from obstore.store import LocalStore

# Names of files need not be UTF-8
quote = partial(urllib.parse.quote, errors="surrogateescape")
unquote = partial(urllib.parse.unquote, errors="surrogateescape")


# memory that a size takes which nobody has checked
TRUSTED_BYTES = 16 << 20

PARTS, RESULTS, CHECKPOINTS = "parts", "results", "checkpoints"
WEEK = timedelta(days=7)
_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def part_path(sha256: str, at: float) -> str:
    """Return where a part that is submitted at ``at`` lies.

    One that is needed again in another week is stored again. So what a week holds is never made young again,
    and a week as a whole can be deleted while others submit: see decision 0004.
    """
    weeks = (datetime.fromtimestamp(at, UTC) - _MONDAY) // WEEK
    return f"{PARTS}/{(_MONDAY + weeks * WEEK):%Y-%m-%d}/{sha256}"


def result_path(labels: Mapping[str, str], job_name: str) -> str:
    """Return the folder for the results of one job: readable names first, uniqueness by the job's name."""
    return f"{_task_path(RESULTS, labels)}/{job_name}"


def checkpoint_path(labels: Mapping[str, str]) -> str:
    """Return the folder for the checkpoints of one task instance, whatever try it is in."""
    return _task_path(CHECKPOINTS, labels)


def _task_path(top: str, labels: Mapping[str, str]) -> str:
    folders = [slug(labels.get(key, ""), 60) for key in ("dag_id", "run_id", "task_id", "map_index")]
    return "/".join([of_deployment(top, labels.get("deployment", "")), *folders])


def of_deployment(top: str, deployment: str) -> str:
    """Return the folder of one Airflow deployment below ``top``: several may have one store."""
    return f"{top}/{slug(deployment, 60) if deployment else '_'}"  # no slug is an underscore


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells about one object; ``modified_at`` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float


class Span(NamedTuple):
    """Bytes of one object, from ``offset`` on; without one, all of the object."""

    path: str
    size: int
    offset: int | None = None


class Store(ABC):
    """One object store or folder; :func:`open_store` makes one from an address.

    Writes are atomic and create-only: an object is there whole or not at all, and never changes unless it is
    damaged.

    :param url: the address, without a slash at its end
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def is_same(self, configured: Store) -> bool:
        """Return whether this is another name of a configured store."""
        return self.url == configured.url

    def uri(self, path: str) -> str:
        return f"{self.url}/{quote(path)}"

    def path_of(self, uri: str) -> str | None:
        """Return the path inside this store that ``uri`` means; ``None`` when it points elsewhere."""
        prefix = self.url + "/"
        path = unquote(uri.removeprefix(prefix))
        is_name = "\0" not in path and not any("\ud800" <= letter < "\udc80" for letter in path)
        is_inside = uri.startswith(prefix) and not {"", ".", ".."} & set(path.split("/"))
        return path if is_name and is_inside else None

    @abstractmethod
    def put_new(self, path: str, *buffers: Buffer) -> bool:
        """Write the buffers in a row unless the object is there already; return whether it was written.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def put(self, path: str, *buffers: Buffer) -> None:
        """Write the buffers in a row in place of what is there; who reads meanwhile gets one or the other.

        Only for an object that is damaged.

        :raises StoreError: the store cannot be written
        """

    @abstractmethod
    def fill(self, spans: Sequence[Span], view: memoryview) -> Iterator[memoryview]:
        """Read the spans in a row into ``view``; yield each part of it once it is filled, in order.

        :raises StoreError: an object is gone, cannot be read, or has not the bytes that are asked for
        """

    @abstractmethod
    def delete_folder(self, path: str) -> None:
        """Delete everything below ``path``; nothing there is not an error."""

    @abstractmethod
    def objects(self, path: str) -> Iterator[StoredObject]:
        """Yield every object below the folder ``path``, with its size and its age.

        :raises StoreError: the store cannot be listed
        """

    def list(self, path: str) -> Iterator[str]:
        """Yield the path of every object below the folder ``path``."""
        for found in self.objects(path):
            yield found.path

    def read(self, path: str, size: int) -> bytearray:
        """Return the object's bytes, writable.

        :raises StoreError: the object is gone, cannot be read, or has another size
        """
        span = Span(path, size)
        self.check_sizes([span])
        data = bytearray(size)
        for _ in self.fill([span], memoryview(data)):
            pass
        return data

    def check_sizes(self, spans: Sequence[Span]) -> None:
        """Look whether objects are as large as somebody says, before memory is taken for them.

        :raises StoreError: one is smaller
        """
        for span in spans:
            if span.size > TRUSTED_BYTES and self.size_of(span.path) < (span.offset or 0) + span.size:
                raise self.wrong_size(span.path, span.size)

    @abstractmethod
    def size_of(self, path: str) -> int:
        """Return how many bytes an object has.

        :raises StoreError: it is gone or cannot be read
        """

    def wrong_size(self, path: str, size: int) -> StoreError:
        return StoreError(f"{self.uri(path)} is not the {size} bytes that were recorded for it")


class FolderStore(Store):
    """A folder of this host, or one that several hosts mount.

    :raises StepConfigError: the address is not that of an absolute folder
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.netloc or not parts.path.startswith("/"):
            raise StepConfigError(f"store {url!r} is not an absolute folder; write file:///srv/stepop")
        if parts.query or parts.fragment or url != parts.geturl():
            raise StepConfigError(
                f"store {url!r} has a character that means something else in an address; write the folder "
                f"as a path, or as {folder_uri(Path(unquote(url.partition(':')[2].removeprefix('//'))))}"
            )
        self.folder = Path(unquote(parts.path))
        super().__init__(folder_uri(self.folder))
        self._client: LocalStore | None = None

    @property
    def client(self) -> LocalStore:
        """The obstore client, made on first use."""
        if self._client is None:
            from obstore.store import LocalStore

            try:
                self._client = LocalStore(self.folder, mkdir=True)
            except Exception as error:
                raise self._explain("opened", "", error) from error
        return self._client

    def put_new(self, path: str, *buffers: Buffer) -> bool:
        return self._put(path, buffers, "create")

    def put(self, path: str, *buffers: Buffer) -> None:
        self._put(path, buffers, "overwrite")

    def _put(self, path: str, buffers: Sequence[Buffer], mode: Literal["create", "overwrite"]) -> bool:
        from obstore.exceptions import AlreadyExistsError

        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        try:
            self.client.put(path, data, mode=mode)
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise self._explain("written", path, error) from error
        return True

    def size_of(self, path: str) -> int:
        try:
            return os.stat(self.folder / path).st_size
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise self._explain("read", path, error) from error

    def fill(self, spans: Sequence[Span], view: memoryview) -> Iterator[memoryview]:
        at = 0
        for path, size, offset in spans:
            try:
                # Not blocking: whoever may write here could leave a pipe that nobody ever writes to
                opened = os.open(self.folder / path, os.O_RDONLY | os.O_NONBLOCK)
                with open(opened, "rb", buffering=0) as file:
                    file.seek(offset or 0)
                    end = at + size
                    while at < end:
                        count = file.readinto(view[at : min(at + CHUNK_BYTES, end)])
                        if not count:
                            raise self.wrong_size(path, size)
                        yield view[at : at + count]
                        at += count
                    if offset is None and file.read(1):
                        raise self.wrong_size(path, size)
            except (OSError, ValueError) as error:
                raise self._explain("read", path, error) from error

    def delete_folder(self, path: str) -> None:
        import shutil

        folder = self.folder / path
        while folder.exists():
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:  # somebody else was faster with a part of it
                continue
            except OSError as error:
                raise self._explain("deleted from", path, error) from error

    def objects(self, path: str) -> Iterator[StoredObject]:
        import obstore

        try:
            for chunk in obstore.list(self.client, prefix=path):
                for entry in chunk:
                    yield StoredObject(entry["path"], entry["size"], entry["last_modified"].timestamp())
        except StoreError:
            raise
        except Exception as error:
            raise self._explain("listed", path, error) from error

    def _explain(self, verb: str, path: str, error: Exception) -> StoreError:
        place = self.uri(path) if path else self.url
        return StoreError(
            f"the store could not be {verb}: {place}: {error}. "
            "Check that the folder exists, has space, and that this user may write to it, "
            "or name another one in [stepop] store"
        )


def open_store(url: str) -> Store:
    """Return the store at an address: ``file:///folder``, an absolute path, or ``s3://bucket/prefix``.

    :raises StepConfigError: the address is not one of these
    """
    url = url.rstrip("/") or url
    if url.startswith("/"):
        return FolderStore(folder_uri(Path(url)))
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return FolderStore(url)
    from airflow_stepop.buckets import SCHEMES, open_bucket

    if scheme not in SCHEMES:
        raise StepConfigError(
            f"store {url!r}: unknown scheme {scheme!r}; use a folder, such as file:///srv/stepop, "
            f"or a bucket ({', '.join(f'{name}://bucket/prefix' for name in SCHEMES)})"
        )
    return open_bucket(url)


def folder_uri(folder: Path) -> str:
    return "file://" + quote(str(folder))


def folder_of(uri: str) -> Path | None:
    """Return the folder or file that ``uri`` is; ``None`` when it is none."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def default_store() -> Store:
    """Return the store of ``[stepop] store``; without one, a folder of this host."""
    from airflow.sdk.configuration import conf

    url = conf.get("stepop", "store", fallback="")
    return open_store(url or folder_uri(airflow_folder("store")))


def configured_stores() -> list[Store]:
    """Return every store that references may point into: ``[stepop] store`` and ``[stepop] extra_stores``."""
    from airflow.sdk.configuration import conf

    extra = conf.get("stepop", "extra_stores", fallback="")
    return [default_store(), *(open_store(url.strip()) for url in extra.split(",") if url.strip())]


def configured_store(url: str | None) -> Store:
    """Return the store that a task names, which must be one of the configured ones.

    :raises StepConfigError: it is not
    """
    if not url:
        return default_store()
    wanted, known = open_store(url), configured_stores()
    for store in known:
        if wanted.is_same(store):
            return store
    raise StepConfigError(
        f"store={url!r} is not configured, so nobody could read results from it; "
        f"add it to [stepop] extra_stores (configured: {', '.join(map(str, known))})"
    )


def locate(uri: str, host: str = "") -> tuple[Store, str]:
    """Return the configured store and the path that ``uri`` points to.

    :param host: the host that wrote a file of a folder store
    :raises StoreError: it points outside the configured stores
    :raises WrongHostError: it is a file that only another host has
    """
    known = configured_stores()
    for store in known:
        path = store.path_of(uri)
        if path is None:
            continue
        if (
            host
            and host != host_id()
            and isinstance(store, FolderStore)
            and not (store.folder / path).exists()
        ):
            raise WrongHostError(
                f"{uri} was written on the host {host}, and this is {host_id()}; "
                "set [stepop] store to a place that every host can reach"
            )
        return store, path
    raise StoreError(
        f"refused to read {uri}: it lies outside the configured stores ({', '.join(map(str, known))})"
    )


def places_of(segment: Mapping[str, Any], base_uri: str) -> list[Place]:
    """Return where the bytes of an entry's segment lie; none for one that carries them."""
    if "pieces" in segment:
        return [
            Place(f"{base_uri}/{piece['name']}", piece["size"], piece["offset"])
            for piece in segment["pieces"]
        ]
    return [Place(f"{base_uri}/{segment['name']}", segment["size"])] if "name" in segment else []


def read_places(
    places: Sequence[Place], segment: Mapping[str, Any], host: str = "", codec: str = ""
) -> Buffer:
    """Return the checked bytes of a segment, wherever its places are; they are hashed as they arrive.

    :param codec: of the value that they are
    :raises SegmentError: they are not those that were recorded
    :raises StoreError: they cannot be read, or lie outside the configured stores
    """
    found_at = [(*locate(place.uri, host), place) for place in places]
    size, at = segment["size"], sum(place.size for place in places)
    if at != size:
        raise SegmentError(
            f"the value at {places[0].uri} has {at} bytes and not the {size} that were recorded"
        )
    groups = [
        (store, [Span(path, place.size, place.offset) for _, path, place in group])
        for store, group in groupby(found_at, key=lambda one: one[0])
    ]
    for store, spans in groups:
        store.check_sizes(spans)
    data, at = Memory(size, codec), 0
    with Beside(size) as found:
        for store, spans in groups:
            end = at + sum(span.size for span in spans)
            found.update_all(store.fill(spans, data.view[at:end]))
            at = end
    check(f"the value at {places[0].uri}", dict(segment), at, found.hexdigest())
    return data.whole()
