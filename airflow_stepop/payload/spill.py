"""Moves parts of a payload into the store, in the worker. Called by ``lifecycle/request.py``.

- :func:`spill` moves the parts that do not fit into the submit request.
- :func:`make_reachable` moves the parts that lie in a folder of this host, which a remote job cannot read:
  into a bucket, or into the submit request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from airflow_stepop.core.host import host_id
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import IntegrityError, StepConfigError
from airflow_stepop.job import Buffer, ObjectRange, Part, Payload
from airflow_stepop.runner.hashing import sha256
from airflow_stepop.runner.threads import Progress, in_order
from airflow_stepop.stores.base import PathRange, Store
from airflow_stepop.stores.bucket import CHUNK_BYTES, BucketStore
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.folder import folder_of
from airflow_stepop.stores.paths import part_path

PART_THREADS = 4

log = logging.getLogger(__name__)


def spill(payload: Payload, store: Callable[[], Store], limit: int) -> Payload:
    """Return the payload with its largest parts in the store, so that the rest fits into ``limit`` bytes.

    A part's path contains its digest and the week, so the same argument is stored once a week.

    :param store: called only when a part must move
    """
    excess, chosen = payload.inline_bytes - limit, {}
    for name, part in sorted(payload.parts.items(), key=lambda item: -item[1].size):
        if excess > 0 and part.buffers is not None:
            chosen[name] = part
            excess -= part.size
    return replace(payload, parts={**payload.parts, **put_parts(chosen, store())}) if chosen else payload


def put_parts(parts: Mapping[str, Part], store: Store) -> dict[str, Part]:
    """Write parts into the store under the name of their digest, and return them with their new location.

    A stored part of another size is damaged, and is written again.

    :raises StoreError: the store cannot be written
    """

    def put(part: Part) -> Part:
        path, buffers = part_path(part.sha256, time.time()), part.buffers or ()
        if not store.put_new(path, *buffers) and store.size_of(path) != part.size:
            log.warning("%s is damaged and is written again", store.uri(path))
            store.put(path, *buffers)
        return replace(part, buffers=None, ranges=(ObjectRange(store.uri(path), part.size),))

    return dict(zip(parts, in_order(put, list(parts.values()), PART_THREADS), strict=True))


def make_reachable(payload: Payload, store: Store, inline_limit: int) -> Payload:
    """Return a payload that a remote job can read, wherever the parts in a folder of this host lie.

    If the store is a bucket, these parts are copied into it; a part that the bucket has already is not copied
    again. Else they are read into memory and travel in the submit request, as far as it can hold them.

    :param inline_limit: bytes that the backend's submit request can hold
    :raises StepConfigError: the store is a folder of this host, too, and the request cannot hold the parts
    :raises StoreError: a part cannot be read or copied
    :raises IntegrityError: a part has changed since it was written
    """
    local = {name: part for name, part in payload.parts.items() if _local_uri(part)}
    if not isinstance(store, BucketStore):
        _check_room(local, payload.inline_bytes, inline_limit)
    found = {
        name: _copied(part, store) if isinstance(store, BucketStore) else _inline(part)
        for name, part in local.items()
    }
    return replace(payload, parts={**payload.parts, **found})


def _local_uri(part: Part) -> str | None:
    return next((one.uri for one in part.ranges if folder_of(one.uri) is not None), None)


def _check_room(local: Mapping[str, Part], inline_bytes: int, inline_limit: int) -> None:
    """Check that the submit request can hold the parts of a folder beside what it holds already."""
    size = sum(part.size for part in local.values())
    if local and size + inline_bytes > inline_limit:
        uri = _local_uri(max(local.values(), key=lambda part: part.size))
        raise StepConfigError(
            f"the job cannot read {shown_size(size)} of the step's input: they lie in a folder of the host "
            f"{host_id()} ({uri}). Set [stepop] store to a bucket (s3://bucket/prefix), or pass "
            f"less: the job itself can carry up to {shown_size(inline_limit)} in all"
        )


def _inline(part: Part) -> Part:
    """Return the part with its bytes in memory.

    :raises IntegrityError: the SHA-256 of the bytes is not the recorded one
    """
    return replace(part, buffers=list(_checked_chunks(part, None)), ranges=())


def _copied(part: Part, store: BucketStore) -> Part:
    """Copy a part into the store under the name of its digest, one chunk at a time."""
    path = part_path(part.sha256, time.time())
    if store.find_size(path) != part.size:
        what = part.ranges[0].uri
        progress = Progress(f"copying {what} to {store.uri(path)}", part.size, log.info)
        store.put_stream(path, _checked_chunks(part, progress), progress)
    return replace(part, ranges=(ObjectRange(store.uri(path), part.size),))


def _checked_chunks(part: Part, progress: Progress | None) -> Iterator[Buffer]:
    """Yield the bytes of a part.

    :raises IntegrityError: after the last chunk, when the SHA-256 is not the recorded one
    """
    found = sha256(part.size)
    for object_range in part.ranges:
        source, path = locate(object_range.uri)
        for begin in range(0, object_range.size, CHUNK_BYTES):
            chunk = bytearray(min(CHUNK_BYTES, object_range.size - begin))
            wanted = PathRange(path, len(chunk), (object_range.offset or 0) + begin)
            for _ in source.fill([wanted], memoryview(chunk)):
                pass
            found.update(chunk)
            if progress is not None:
                progress.add(len(chunk))
            yield chunk
    if found.hexdigest() != part.sha256:
        raise IntegrityError(f"{part.ranges[0].uri} changed after it was written; it is not used")
