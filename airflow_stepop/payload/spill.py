"""Moves parts of a payload into the store, in the worker. Called by ``lifecycle/request.py``.

- :func:`spill` moves the parts that do not fit into the submit request.
- :func:`copy_to_bucket` copies the parts that lie in a folder of this host, which a remote job cannot read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

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
            log.warning("%s was damaged: it is written again", store.uri(path))
            store.put(path, *buffers)
        return replace(part, buffers=None, ranges=(ObjectRange(store.uri(path), part.size),))

    return dict(zip(parts, in_order(put, list(parts.values()), PART_THREADS), strict=True))


def copy_to_bucket(payload: Payload, store: Store, inline_limit: int) -> Payload:
    """Return a payload that a remote job can read. Parts in a folder of this host are copied to the store.

    A part that the store has already is not copied again.

    :param inline_limit: bytes that the backend's submit request can hold; used in the error message
    :raises StepConfigError: the store is a folder of this host, too
    :raises StoreError: a part cannot be copied
    """
    parts = dict(payload.parts)
    for name, part in parts.items():
        local_uris = [one.uri for one in part.ranges if folder_of(one.uri) is not None]
        if local_uris and not isinstance(store, BucketStore):
            raise StepConfigError(
                f"the step gets {shown_size(part.size)} that the job cannot read, as they lie in a folder of "
                f"this host ({local_uris[0]}). Set [stepop] store to a bucket (s3://bucket/prefix), or pass "
                f"less: up to {shown_size(inline_limit)} in all go with the job"
            )
        if local_uris and isinstance(store, BucketStore):
            parts[name] = _copied(part, store)
    return replace(payload, parts=parts)


def _copied(part: Part, store: BucketStore) -> Part:
    """Copy a part into the store under the name of its digest, one chunk at a time."""
    path = part_path(part.sha256, time.time())
    if store.find_size(path) != part.size:
        what = part.ranges[0].uri
        progress = Progress(f"copying {what} to {store.uri(path)}", part.size, log.info)
        store.put_stream(path, _checked_chunks(part, progress), progress)
    return replace(part, ranges=(ObjectRange(store.uri(path), part.size),))


def _checked_chunks(part: Part, progress: Progress) -> Iterator[Buffer]:
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
            progress.add(len(chunk))
            yield chunk
    if found.hexdigest() != part.sha256:
        raise IntegrityError(f"{part.ranges[0].uri} changed after it was written; it was not copied")
