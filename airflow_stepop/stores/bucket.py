"""Buckets of object stores, reached with obstore. ``configured.py`` opens them.

- A bucket keeps the promises of :class:`Store`, with one limit: see :meth:`BucketStore.put_new`.
- Reads and large writes are parallel. Transient errors are retried, see ``obstore_calls.RETRY_LIMIT_S``.
- Transfers run in other threads while the calling thread waits, so signals still reach the worker.
- A slow transfer reports its progress in the task's log.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_stepop.core.tree import shown
from airflow_stepop.exceptions import StepConfigError, StepopError, StoreError
from airflow_stepop.runner.threads import Progress, in_order
from airflow_stepop.stores.access import Access, Method
from airflow_stepop.stores.base import PathRange, Store, StoredObject, quote, unquote
from airflow_stepop.stores.obstore_calls import again, delete_object, error_text, object_size
from airflow_stepop.stores.paths import is_plain_name

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from airflow_stepop.job import Buffer

T = TypeVar("T")

MIB = 1 << 20
CHUNK_BYTES = 16 * MIB  # size of one request in a parallel transfer
THREADS = 8
PAGE = 1000  # objects that are deleted with one request
# Larger objects are uploaded in several requests, which cannot be create-only: see BucketStore.put_new
SINGLE_PUT_BYTES = 1 * MIB

log = logging.getLogger(__name__)


class BucketStore(Store):
    """A bucket, or a folder of one: ``scheme://[conn_id@]bucket[/prefix]``.

    The connection is not part of the store's name, so references stay valid when the connection changes.

    :param access: makes the :class:`Access` from the id of an Airflow connection, or from ``None``
    :raises StepConfigError: the address has no bucket
    """

    def __init__(self, url: str, access: Callable[[str | None], Access]) -> None:
        parts = urlsplit(url)
        conn_id, _, bucket = parts.netloc.rpartition("@")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) or parts.query or parts.fragment:
            raise StepConfigError(
                f"store {url!r} is not the address of a bucket; write {parts.scheme}://bucket/prefix or "
                f"{parts.scheme}://conn_id@bucket/prefix"
            )
        self.bucket = bucket
        self.prefix = unquote(parts.path).strip("/")
        self.conn_id = unquote(conn_id) or None
        super().__init__(f"{parts.scheme}://{bucket}" + (f"/{quote(self.prefix)}" if self.prefix else ""))
        self._access = access(self.conn_id)
        self._client: ObjectStore | None = None

    def is_same(self, configured: Store) -> bool:
        return super().is_same(configured) and (
            self.conn_id is None or self.conn_id == getattr(configured, "conn_id", None)
        )

    @property
    def client(self) -> ObjectStore:
        """The obstore client, made on first use."""
        if self._client is None:
            try:
                self._client = self._access.client(self.bucket, self.prefix)
            except StepConfigError:
                raise
            except Exception as error:
                raise self._explain("opened", "", error) from error
        return self._client

    @property
    def largest_put_bytes(self) -> int:
        """The most bytes of one PUT to a signed address."""
        return self._access.largest_put_bytes

    def put_headers(self, *, is_new: bool = False) -> Mapping[str, str]:
        """Return the headers that a PUT to a signed address must have.

        :param is_new: the address was signed with ``is_new``; with these headers the PUT is create-only
        """
        return {**self._access.put_headers(), **(self._access.create_only_headers if is_new else {})}

    @property
    def lasting(self) -> str:
        """What to do for signatures that are valid for longer, for an error message."""
        return self._access.lasting

    # -- writing

    def put_new(self, path: str, *buffers: Buffer) -> bool:
        """See :meth:`Store.put_new`.

        Known limit: two concurrent writers of the same object of more than ``SINGLE_PUT_BYTES`` may both
        write it. So derive the names of large objects from their content.
        """
        if sum(map(len, buffers)) <= SINGLE_PUT_BYTES:
            return self._put_small(path, b"".join(buffers))
        if self.find_size(path) is not None:
            return False
        self.put(path, *buffers)
        return True

    def put(self, path: str, *buffers: Buffer) -> None:
        progress = Progress(f"writing {self.uri(path)}", sum(map(len, buffers)), log.info)

        def chunks() -> Iterator[memoryview]:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                for begin in range(0, len(view), CHUNK_BYTES):
                    yield view[begin : begin + CHUNK_BYTES]
                    progress.add(len(view[begin : begin + CHUNK_BYTES]))

        try:
            self.put_stream(path, chunks(), progress)
        except StoreError as error:
            # The answer that ended the upload was lost, and the request that was sent again found no upload
            if "NoSuchUpload" not in str(error):
                raise
            progress = Progress(f"writing {self.uri(path)} again", sum(map(len, buffers)), log.info)
            self.put_stream(path, chunks(), progress)

    def put_stream(self, path: str, chunks: Iterator[Buffer], progress: Progress) -> None:
        """Write the chunks as one object. If ``chunks`` raises, no object is written.

        :raises StoreError: the store cannot be written
        """
        import obstore

        client = self.client
        self._call(
            "written",
            path,
            lambda: obstore.put(client, path, chunks, chunk_size=CHUNK_BYTES, max_concurrency=THREADS),
            progress,
        )

    def _put_small(self, path: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        client = self.client

        def put() -> bool:
            try:
                again(lambda: obstore.put(client, path, data, mode="create", use_multipart=False))
            except AlreadyExistsError:
                return False
            return True

        return self._call("written", path, put)

    def size_of(self, path: str) -> int:
        return self._call("read", path, partial(object_size, self.client, path))

    def find_size(self, path: str) -> int | None:
        """Return the size of an object in bytes; ``None`` if the object does not exist.

        :raises StoreError: the store cannot be read
        """
        client = self.client

        def look() -> int | None:
            try:
                return object_size(client, path)
            except FileNotFoundError:
                return None

        return self._call("read", path, look)

    # -- reading

    def fill(self, ranges: Sequence[PathRange], view: memoryview) -> Iterator[memoryview]:
        jobs, at = [], 0
        for path_range in ranges:
            for begin in range(0, path_range.size, CHUNK_BYTES) or (0,):
                count = min(CHUNK_BYTES, path_range.size - begin)
                jobs.append((path_range, begin, view[at : at + count]))
                at += count
        where = self.uri(ranges[0].path) + (f" and {len(ranges) - 1} more" if len(ranges) > 1 else "")
        progress = Progress(f"reading {where}", at, log.info)
        self.client  # noqa: B018 - create the client before several threads use it

        def get(job: tuple[PathRange, int, memoryview]) -> memoryview:
            self._get(*job)
            progress.add(len(job[2]))
            return job[2]

        yield from in_order(get, jobs, THREADS, progress.tick)
        progress.end()

    def _get(self, path_range: PathRange, begin: int, part: memoryview) -> None:
        import obstore

        first = (path_range.offset or 0) + begin
        options: Any = {"range": (first, first + len(part))} if len(part) else None

        def read() -> tuple[memoryview, int]:
            found = obstore.get(self.client, path_range.path, options=options)
            return memoryview(found.bytes()), found.meta["size"]  # the connection may be closed here, too

        try:
            data, size = again(read)
        except Exception as error:
            raise self._explain("read", path_range.path, error) from error
        if len(data) != len(part) or (path_range.offset is None and size != path_range.size):
            raise self.wrong_size(path_range.path, path_range.size)
        part[:] = data

    # -- listing and deleting, signed addresses

    def delete(self, path: str) -> None:
        self._call("emptied", path, partial(delete_object, self.client, path))

    def delete_folder(self, path: str) -> None:
        import obstore

        client = self.client

        def delete(paths: Sequence[str]) -> None:
            try:
                again(lambda: obstore.delete(client, paths))
            except FileNotFoundError:  # somebody else has deleted one, or an answer was lost
                for one in paths:
                    delete_object(client, one)

        for chunk in self._chunks(path):
            self._call("emptied", path, partial(delete, [entry.path for entry in chunk]))

    def objects(self, path: str) -> Iterator[StoredObject]:
        for chunk in self._chunks(path):
            yield from chunk

    def _chunks(self, path: str) -> Iterator[Sequence[StoredObject]]:
        import obstore
        from obstore.exceptions import InvalidPathError

        stream, last = iter(obstore.list(self.client, prefix=path or None)), ""

        def page() -> Sequence[Any] | None:
            try:
                return next(stream, None)
            except InvalidPathError as error:
                raise _StrangeNameError(str(error)) from error

        try:
            while chunk := self._call("listed", path, page):
                last = chunk[-1]["path"]
                yield [
                    StoredObject(entry["path"], entry["size"], entry["last_modified"].timestamp())
                    for entry in chunk
                ]
        except _StrangeNameError as error:
            yield from self._without_strange_names(path, last, error)

    def _without_strange_names(
        self, path: str, last: str, error: Exception
    ) -> Iterator[Sequence[StoredObject]]:
        """Yield the objects that a listing of obstore has not reached, but for those that it refuses.

        :param last: the last path that was listed
        :param error: the error of obstore
        """
        top = f"{self.prefix}/" if self.prefix else ""
        prefix = f"{top}{path}/" if path else top
        found = self._access.every_object(self.bucket, prefix, f"{top}{last}" if last else "")
        if found is None:
            strange = re.search('Error parsing Path "(.*?)": ', str(error), re.DOTALL)
            raise StoreError(
                f"the store could not be listed: {self.uri(path)}: an object has a name with a control "
                f"character: {shown(strange[1] if strange else str(error))}. Delete it with another program"
            ) from error
        some: list[StoredObject] = []
        try:
            for one in found:
                name = one.path.removeprefix(top)
                if is_plain_name(name):
                    some.append(replace(one, path=name))
                else:
                    self.skip(f"{shown(name)} has a name that this package never writes")
                if len(some) == PAGE:
                    yield some
                    some = []
            yield some
        except OSError as problem:
            raise self._explain("listed", path, problem) from problem

    def sign(
        self, method: Method, paths: Sequence[str], until: float, *, is_new: bool = False
    ) -> Sequence[str]:
        """Return a signed URL for each object. Anybody who has the URL may use it.

        :param method: ``GET`` for URLs to read, ``PUT`` for URLs to write
        :param until: when the URLs expire, in seconds since the epoch
        :param is_new: a PUT must send :meth:`put_headers` with ``is_new``, and then replaces no object
        :raises StepConfigError: the credentials cannot sign
        :raises StoreError: the URLs cannot be signed
        """
        client, valid_s = self.client, int(until - time.time())
        return self._call(
            "signed for", "", lambda: self._access.sign(client, method, paths, valid_s, is_new=is_new)
        )

    def signature_end(self, wanted: float) -> float | None:
        """Return when a URL expires that is signed now: with the credentials, see :meth:`Access.end`.

        :param wanted: when the URL may expire at the earliest, in seconds since the epoch. Credentials that
            expire earlier are renewed first, where that is possible
        """
        self.client  # noqa: B018 - creating the client finds the credentials
        end = self._access.end()
        if end is not None and end < wanted:
            self._access.renew()
            self._client = None
            self.client  # noqa: B018
            end = self._access.end()
        return end

    def _call(self, verb: str, path: str, call: Callable[[], T], progress: Progress | None = None) -> T:
        """Run a blocking call in a thread; turn its errors into a :class:`StoreError` with advice."""
        progress = progress or Progress(f"waiting for {self.uri(path) if path else self.url}", 0, log.info)

        def explained(_: None) -> T:
            try:
                return call()
            except StepopError:
                raise
            except Exception as error:
                raise self._explain(verb, path, error) from error

        (result,) = in_order(explained, [None], 1, progress.tick)
        progress.end()
        return result  # type: ignore[no-any-return]

    def _explain(self, verb: str, path: str, error: Exception) -> StoreError:
        place = self.uri(path) if path else self.url
        words = error_text(error)
        by = f"with the connection {self.conn_id}" if self.conn_id else "with the default credentials"
        advice = self._access.advice(words)
        if self._access.has_refused_token(words):
            self._access.renew()
            self._client = None
        return StoreError(f"the store could not be {verb}: {place} ({by}): {words}. {advice}")


class _StrangeNameError(StepopError):
    """obstore refuses to list an object because of its name."""
