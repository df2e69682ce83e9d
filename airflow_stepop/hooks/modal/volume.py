"""The files of jobs in a Volume of Modal: the input, the outcome and the results. Called by the hook.

One Volume (version 2) for all jobs of an environment. Each sandbox mounts the folder of its own job only::

    /jobs/<deployment>/<dag>/<run>/<task>/<map>/<job>/<hash of the nonce>/   the mount of the sandbox
        in/<digest>/    what submit has staged: see hooks/common/staging.py
        out/            outcome.json and the results, which the runner writes
        started         the marker of the start-once guard
        cancelled       somebody of us has ended the sandbox

Source: https://modal.com/docs/guide/volumes ("Volumes v2")
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.exceptions import StoreError
from airflow_stepop.hooks.common.api_errors import Trouble, or_none
from airflow_stepop.hooks.modal.calls import UPLOAD_S, api_error, bounded
from airflow_stepop.hooks.modal.names import JOB_VOLUME
from airflow_stepop.stores.paths import JOBS

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer

CANCELLED = "cancelled"
FOLDER_PARTS = 7  # of the path of a job's folder: see stores/paths.py


class VolumeFile(NamedTuple):
    """One entry of a listing; ``modified_at`` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float
    is_folder: bool


class VolumeFiles:
    """The files of one Volume, with the promises of a ``Store`` as far as staging needs them.

    Paths have no slash at their begin. Errors of the client are raised unchanged: see ``calls.api_error``.

    :param client: an open ``modal.Client``
    :param environment: name of the environment; ``None``: that of the client's configuration
    """

    def __init__(self, client: object, environment: str | None, name: str = JOB_VOLUME) -> None:
        self.name = name
        self._client = client
        self._environment = environment
        self._volume: Any = None

    def __str__(self) -> str:
        return f"the Volume {self.name}"

    def uri(self, path: str) -> str:
        return f"modal://{self.name}/{path}"

    def open(self) -> Any:
        """Return the Volume; made at the first use if the environment has none of this name."""
        if self._volume is None:
            from modal import Volume

            volume: Any = Volume.from_name(
                self.name,
                environment_name=self._environment,
                create_if_missing=True,
                version=2,
                client=self._client,  # type: ignore[arg-type]
            )
            bounded(volume.hydrate)
            self._volume = volume
        return self._volume

    # -- write

    def put_new(self, path: str, *buffers: Buffer) -> bool:
        """Write a file unless it exists; return whether it was written."""
        try:
            self._upload(path, buffers, force=False)
        except FileExistsError:
            return False
        return True

    def put(self, path: str, *buffers: Buffer) -> None:
        self._upload(path, buffers, force=True)

    def _upload(self, path: str, buffers: tuple[Buffer, ...], force: bool) -> None:
        volume = self.open()

        def upload() -> None:
            with volume.batch_upload(force=force) as batch:
                batch.put_file(io.BytesIO(b"".join(buffers)), f"/{path}")

        bounded(upload, UPLOAD_S)

    # -- read

    def size_of(self, path: str) -> int:
        """Return the size of a file in bytes.

        :raises StoreError: there is no such file
        """
        found = [one for one in self.entries(path) or [] if not one.is_folder and one.path == path]
        if not found:
            raise StoreError(f"{self} has no file {path}")
        return found[0].size

    def read(self, path: str, size: int) -> bytes:
        """Return the bytes of a file.

        :raises StoreError: there is no such file, or it has another size
        """
        data = bytearray()
        for block in self.chunks(path):
            data += block
            if len(data) > size:
                raise StoreError(f"{self}: {path} has more than {size} bytes")
        if len(data) != size:
            raise StoreError(f"{self}: {path} has {len(data)} bytes, and not {size}")
        return bytes(data)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of a file, block by block.

        :raises StoreError: there is no such file
        """
        blocks = iter(self.open().read_file(f"/{path}"))
        while True:
            try:
                block = bounded(lambda: next(blocks, None), UPLOAD_S)
            except FileNotFoundError as error:
                raise StoreError(f"{self} has no file {path}") from error
            if block is None:
                return
            yield block

    def entries(self, path: str, *, is_deep: bool = False) -> list[VolumeFile] | None:
        """Return the files and folders in a folder; ``None``: there is no such folder or file.

        :param is_deep: also those in its folders
        """
        volume = self.open()
        found = or_none(
            api_error,
            lambda: bounded(lambda: volume.listdir(f"/{path}", recursive=is_deep)),
            Trouble.NOT_FOUND,
        )
        return None if found is None else [_to_file(entry) for entry in found]

    def list(self, path: str) -> Iterator[str]:
        for entry in self.entries(path, is_deep=True) or []:
            if not entry.is_folder:
                yield entry.path

    # -- delete

    def delete(self, path: str) -> None:
        self._remove(path, is_deep=False)

    def delete_folder(self, path: str) -> None:
        self._remove(path, is_deep=True)

    def _remove(self, path: str, is_deep: bool) -> None:
        volume = self.open()
        try:
            bounded(lambda: volume.remove_file(f"/{path}", recursive=is_deep))
        except FileNotFoundError:
            return


def job_folders(files: VolumeFiles) -> dict[str, list[VolumeFile]]:
    """Return the folder of each job, and the files in it."""
    found: dict[str, list[VolumeFile]] = {}
    for entry in files.entries(JOBS, is_deep=True) or []:
        parts = entry.path.split("/")
        if not entry.is_folder and len(parts) > FOLDER_PARTS:
            found.setdefault("/".join(parts[:FOLDER_PARTS]), []).append(entry)
    return found


def _to_file(entry: Any) -> VolumeFile:
    from modal.types import FileEntryType

    return VolumeFile(
        entry.path.strip("/"), entry.size, float(entry.mtime), entry.type is FileEntryType.DIRECTORY
    )
