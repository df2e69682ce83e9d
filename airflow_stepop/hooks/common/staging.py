"""Puts the runner's input folder where the service reads it: a bucket or a volume. Called by ``submit``.

**How it works:** A job has one folder, :func:`~airflow_stepop.stores.paths.job_path`. Each submit writes its
files into a folder below it, whose name is a digest of the manifest and of the runner. The job's request
names this folder and both digests::

    <folder>/<digest of both>/<sha256>               each inline part of the payload
                              step.pyz               the runner
                              locations.json.sealed  secret files: addresses and secrets
                              manifest.json          last: the folder is complete

- *Several submits of one job.* A later try may pickle other bytes. Its files lie in another folder, so a
  submit never changes what another one has put into its request. The service accepts one request per name,
  and with it one folder. The same bytes are written once.
- *Integrity.* Nothing that lies in the store is believed. The digests in the request are those of the bytes
  in memory. So write access to the bucket is not enough to run code in a step, also if a job is submitted
  again days later.
- *Addresses and secrets* are written anew by each submit, since signatures expire. Secret files are sealed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from airflow_stepop.core.stored_json import COUNT, OBJECT, TEXT, checked_fields, parsed_json
from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.runner.protocol import MANIFEST, RUNNER, SEALED
from airflow_stepop.runner.sealing import sealed
from airflow_stepop.runner.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_stepop.hooks.common.input_files import InputFile
    from airflow_stepop.job import Buffer

PART_THREADS = 4

log = logging.getLogger(__name__)


class StagingPlace(Protocol):
    """Where a job's input is staged: a store, or a volume of the service.

    The promises are those of :class:`~airflow_stepop.stores.base.Store`.
    """

    def uri(self, path: str) -> str: ...
    def put_new(self, path: str, *buffers: Buffer) -> bool: ...
    def put(self, path: str, *buffers: Buffer) -> None: ...
    def size_of(self, path: str) -> int: ...
    def read(self, path: str, size: int) -> bytes | bytearray: ...
    def list(self, path: str) -> Iterable[str]: ...
    def delete(self, path: str) -> None: ...
    def delete_folder(self, path: str) -> None: ...


@dataclass(frozen=True)
class Staged:
    """The input folder of a job, in a store or a volume.

    :param uri: URI of the folder, without a slash at its end
    :param digest: SHA-256 of the manifest, for the job's request
    :param runner_digest: SHA-256 of ``step.pyz``, for the job's request
    :param size: bytes of all files in the folder
    """

    uri: str
    digest: str
    runner_digest: str
    size: int


def stage(store: StagingPlace, folder: str, files: Mapping[str, InputFile], seal_key: bytes | None) -> Staged:
    """Write the input files of a job into the store, and return where they lie.

    Idempotent: a later call with the same bytes writes what is missing or damaged, and the secret files anew.

    :param folder: the job's folder: :func:`~airflow_stepop.stores.paths.job_path`
    :param files: the result of ``input_files``, perhaps with further files of the backend
    :param seal_key: key for the secret files, from ``seal_key(nonce)``; ``None`` if there are none
    :raises StepConfigError: a file is secret, and there is no key
    :raises StoreError: the store cannot be written
    """
    secret = sorted(name for name, file in files.items() if file.is_secret)
    if secret and seal_key is None:
        raise StepConfigError(
            f"{', '.join(secret)} must be sealed before {store} may hold them: no key given"
        )
    manifest, runner = files[MANIFEST].data, files[RUNNER].data
    digest, runner_digest = sha256(manifest).hexdigest(), sha256(runner).hexdigest()
    inner = f"{folder}/{sha256(f'{digest}{runner_digest}'.encode()).hexdigest()[:32]}"
    parts = _part_digests(manifest)
    size = _put_parts(store, inner, {parts[name]: file for name, file in files.items() if name in parts})
    for name, file in files.items():
        if name in parts or name in (MANIFEST, RUNNER):
            continue
        data = sealed(file.data, seal_key, name) if file.is_secret and seal_key else file.data
        store.put(f"{inner}/{name}{SEALED if file.is_secret else ''}", data)
        size += len(data)
    for name, data in ((RUNNER, runner), (MANIFEST, manifest)):
        _put_checked(store, f"{inner}/{name}", data)
        size += len(data)
    return Staged(store.uri(inner), digest, runner_digest, size)


def unstage(store: StagingPlace, folder: str) -> None:
    """Delete everything that was staged for a job. Idempotent.

    :param folder: see :func:`stage`
    :raises StoreError: an object cannot be deleted
    """
    store.delete_folder(folder)


def remove_sealed(store: StagingPlace, folder: str) -> None:
    """Delete the sealed files of a job: call this function when the job has ended, whatever is kept of it.

    :param folder: see :func:`stage`
    :raises StoreError: the store cannot be listed, or an object cannot be deleted
    """
    for path in [path for path in store.list(folder) if path.endswith(SEALED)]:
        store.delete(path)


def _part_digests(manifest: bytes) -> dict[str, str]:
    """Return the SHA-256 of each part that the manifest names."""
    parts = checked_fields(parsed_json(manifest, "the manifest"), "the manifest", {"parts": OBJECT})["parts"]
    fields = {"sha256": TEXT, "size": COUNT}
    return {name: checked_fields(part, f"the part {name}", fields)["sha256"] for name, part in parts.items()}


def _put_parts(store: StagingPlace, folder: str, parts: Mapping[str, InputFile]) -> int:
    """Write the parts, each under its SHA-256, and return their size in bytes."""

    def put(part: tuple[str, InputFile]) -> int:
        path, buffers = f"{folder}/{part[0]}", part[1].buffers
        size = sum(map(len, buffers))
        if not store.put_new(path, *buffers) and store.size_of(path) != size:
            log.warning("%s is damaged and is written again", store.uri(path))
            store.put(path, *buffers)
        return size

    return sum(in_order(put, list(parts.items()), PART_THREADS))


def _put_checked(store: StagingPlace, path: str, data: bytes) -> None:
    """Write an object unless it exists already with these bytes.

    The store may say "exists" about an object that this call has written, if the first answer was lost.
    """
    if not store.put_new(path, data) and not _has(store, path, data):
        log.warning("%s has other bytes than were written, and is written again", store.uri(path))
        store.put(path, data)


def _has(store: StagingPlace, path: str, data: bytes) -> bool:
    try:
        return store.read(path, len(data)) == data
    except StoreError:
        return False  # another size, or deleted; the next write says what is wrong with the store
