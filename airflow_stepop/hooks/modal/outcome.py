"""Reads the outcome of a job from the Volume, and copies its results into the store. Called by the hook.

The receipt is a line of the log. The outcome is in the receipt itself, or ``out/outcome.json`` in the Volume.
A reference to a result never points into the Volume: Airflow's tasks read results from their stores, and the
Volume's folder goes with the job. So the results that the runner has left in the Volume are copied first.
Where the store is a bucket, the runner has written them there itself.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, OutcomeNotReadyError, StoreError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.common.receipts import report
from airflow_stepop.hooks.modal import states
from airflow_stepop.hooks.modal.private import Result
from airflow_stepop.hooks.modal.request import OUT
from airflow_stepop.runner.protocol import EXIT_OK, EXIT_STEP_FAILED, OUTCOME, OUTCOME_BYTES
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.receipts import Receipt
    from airflow_stepop.hooks.modal.volume import VolumeFiles
    from airflow_stepop.job import JobHandle, OutcomeReport
    from airflow_stepop.stores.base import Store

PLACE = "the log of its sandbox"


class Segment(NamedTuple):
    """A part of a result: a file that the runner has written."""

    name: str
    sha256: str
    size: int


def outcome_of(
    handle: JobHandle, receipt: Receipt, files: VolumeFiles, folder: str, result_uri: str
) -> OutcomeReport:
    """Return the outcome that a receipt reports, with its results in the store.

    :param folder: of the job, in the Volume
    :param result_uri: folder in the store for the results
    :raises OutcomeLostError: the outcome is too large
    :raises OutcomeNotReadyError: the Volume does not have the outcome, or all of its results, perhaps not yet
    :raises StoreError: the results cannot be written
    """

    def read(receipt: Receipt) -> bytes:
        return _whole(handle, files, f"{folder}/{OUT}/{OUTCOME}", receipt.size)

    found = report(handle, receipt, result_uri, read, PLACE)
    if len(found.data) <= OUTCOME_BYTES and hashlib.sha256(found.data).hexdigest() == receipt.digest:
        _copy_results(handle, files, f"{folder}/{OUT}", found.data, result_uri)
    return found  # with another digest, the caller refuses it


def has_outcome(files: VolumeFiles, folder: str) -> bool:
    """Return whether ``outcome.json`` is in the Volume. One request."""
    path = f"{folder}/{OUT}/{OUTCOME}"
    return any(entry.path == path for entry in files.entries(f"{folder}/{OUT}") or [])


def result_in(files: VolumeFiles, folder: str) -> Result | None:
    """Return how a sandbox has ended by its ``outcome.json``; ``None``: that is damaged.

    The receipt proves the outcome later. This only says what to expect.
    """
    data = _said_by(files, folder)
    if data is None:
        return None
    is_success = data.get("status") == "success"
    return Result(states.SUCCESS, EXIT_OK) if is_success else Result(states.FAILURE, EXIT_STEP_FAILED)


def was_stopped(files: VolumeFiles, folder: str) -> bool:
    """Return whether ``outcome.json`` says that a signal stopped the step: there is no result to wait for.

    The same holds as for :func:`result_in`: nothing proves it.
    """
    data = _said_by(files, folder) or {}
    failure = data.get("failure")
    category = failure.get("category") if isinstance(failure, dict) else None
    return data.get("status") != "success" and category == Category.CANCELLED


def _said_by(files: VolumeFiles, folder: str) -> dict[str, Any] | None:
    """Return ``outcome.json``, which nothing proves; ``None``: it is damaged or not there."""
    path = f"{folder}/{OUT}/{OUTCOME}"
    try:
        size = files.size_of(path)
        data = parsed_json(files.read(path, size), OUTCOME) if size <= OUTCOME_BYTES else None
    except (StoreError, IntegrityError):
        return None
    return data if isinstance(data, dict) else None


def _whole(handle: JobHandle, files: VolumeFiles, path: str, size: int) -> bytes:
    try:
        return files.read(path, size)
    except StoreError as error:  # the file may come a little after the end of the sandbox
        raise OutcomeNotReadyError(f"the outcome of {handle} cannot be read: {error}") from error


def _copy_results(handle: JobHandle, files: VolumeFiles, out: str, outcome: bytes, result_uri: str) -> None:
    segments = list(segments_of(outcome))
    if not segments:
        return
    store, path = locate(result_uri)
    for segment in segments:
        target = f"{path}/{segment.name}"
        if _has(store, target, segment.size):
            continue
        with tempfile.TemporaryFile() as stream:
            _download(handle, files, f"{out}/{segment.name}", segment, stream)
            _put(store, target, stream.fileno(), segment.size)


def _put(store: Store, path: str, descriptor: int, size: int) -> None:
    """Write a file of this host into the store, without a copy in memory."""
    with (
        mmap.mmap(descriptor, max(size, 1), access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
        view[:size] as part,
    ):
        if not store.put_new(path, part) and not _has(store, path, size):
            store.put(path, part)  # the torn file of a worker that was killed


def _has(store: Store, path: str, size: int) -> bool:
    try:
        return store.size_of(path) == size
    except StoreError:
        return False


def _download(handle: JobHandle, files: VolumeFiles, path: str, segment: Segment, stream: BinaryIO) -> None:
    """Copy a result to this host's disk, and check its digest on the way."""
    digest, size = hashlib.sha256(), 0
    try:
        for block in files.chunks(path):
            size += len(block)
            if size > segment.size:
                break
            digest.update(block)
            stream.write(block)
    except StoreError as error:
        raise OutcomeNotReadyError(f"a result of {handle} cannot be read: {error}") from error
    if size != segment.size or digest.hexdigest() != segment.sha256:
        raise OutcomeNotReadyError(
            f"{path} in {files} is not the result of {handle}: another digest, and {size} bytes or more"
        )
    if not size:
        stream.write(b"\0")  # an empty file cannot be mapped
    stream.flush()


def segments_of(outcome: bytes) -> Iterator[Segment]:
    """Yield the files that an outcome names, each once, without those in the store.

    :param outcome: the bytes of ``outcome.json``, whose digest was checked
    :raises OutcomeLostError: it is damaged, or names a file outside of its folder
    """
    try:
        data = parsed_json(outcome, "the outcome")
    except IntegrityError as error:
        raise OutcomeLostError(str(error)) from error
    seen: set[str] = set()
    for entry in _entries(data):
        for segment in entry["segments"]:
            if not isinstance(segment, dict) or "name" not in segment:
                continue
            name, size = segment["name"], segment.get("size")
            if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
                raise OutcomeLostError(f"the outcome names the file {json.dumps(name)}, and it is refused")
            if type(size) is int and size >= 0 and name not in seen:
                seen.add(name)
                yield Segment(name, str(segment.get("sha256")), size)


def _entries(data: object) -> Iterator[Mapping[str, Any]]:
    """Yield every value entry in an outcome: see ``runner/protocol.py``."""
    if isinstance(data, list):
        for one in data:
            yield from _entries(one)
    elif isinstance(data, dict):
        if isinstance(data.get("segments"), list) and "codec" in data:
            yield data
            return
        for key in ("value", "values", "outputs"):
            if key in data:
                found = data[key]
                yield from _entries(
                    [*found.values()] if key == "outputs" and isinstance(found, dict) else found
                )
