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

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from airflow_stepop.exceptions import StoreError
from airflow_stepop.hooks.common.api_errors import Trouble, or_none
from airflow_stepop.hooks.modal.calls import api_error, bounded, upload_limit_s
from airflow_stepop.hooks.modal.names import JOB_VOLUME

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer

CANCELLED = "cancelled"
BLOCK_S = 300.0  # of the next block of a file: the client tries five times, for a minute each
SURE_S = 30.0  # so long after it was looked up, the Volume is the one of its name
IN_MEMORY_BYTES, FILE_MODE = 4 << 20, 0o644  # of an upload
# Of the path of a job's folder, and of that of a task instance's checkpoints: see stores/paths.py
JOB_PARTS, CHECKPOINT_PARTS = 7, 6


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
        self._opened_at = 0.0

    def __str__(self) -> str:
        return f"the Volume {self.name}"

    def uri(self, path: str) -> str:
        return f"modal://{self.name}/{path}"

    def open(self) -> Any:
        """Return the Volume; made at the first use if the environment has none of this name."""
        if self._volume is None:
            self._volume = self._opened(create=True)
        return self._volume

    def is_there(self) -> bool:
        """Return whether the environment has the Volume. It is not made."""
        if self._volume is None:
            self._volume = or_none(api_error, lambda: self._opened(create=False), Trouble.NOT_FOUND)
        return self._volume is not None

    def _opened(self, *, create: bool) -> Any:
        from modal import Volume

        volume: Any = Volume.from_name(
            self.name,
            environment_name=self._environment,
            create_if_missing=create,
            version=2,
            client=self._client,  # type: ignore[arg-type]
        )
        bounded(volume.hydrate)
        self._opened_at = time.monotonic()
        return volume

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

    def _upload(self, path: str, buffers: Sequence[Buffer], force: bool) -> None:
        volume = self.open()
        with _source(path, buffers) as source:

            def upload() -> None:
                with volume.batch_upload(force=force) as batch:
                    batch.put_file(source, f"/{path}", mode=FILE_MODE)

            bounded(upload, upload_limit_s(sum(map(len, buffers))))

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
                block = bounded(lambda: next(blocks, None), BLOCK_S)
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
        found = self._listed(volume, path, is_deep)
        if found is None and time.monotonic() - self._opened_at >= SURE_S:
            # somebody may have deleted it, and another process made a new one
            self._volume = or_none(api_error, lambda: self._opened(create=False), Trouble.NOT_FOUND)
            if self._volume is not None and self._volume.object_id != volume.object_id:
                found = self._listed(self._volume, path, is_deep)
        return None if found is None else [_to_file(entry) for entry in found]

    def _listed(self, volume: Any, path: str, is_deep: bool) -> list[Any] | None:
        return or_none(
            api_error,
            lambda: bounded(lambda: volume.listdir(f"/{path}", recursive=is_deep)),
            Trouble.NOT_FOUND,
        )

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


@contextlib.contextmanager
def _source(path: str, buffers: Sequence[Buffer]) -> Iterator[BinaryIO | str]:
    """Yield what the client can upload: a small file in memory, or the path of one on this host's disk.

    Of a file in memory, the client makes a whole copy for each block of 8 MiB, and another to send the block.

    :raises StoreError: this host has no room for the file
    """
    if sum(map(len, buffers)) <= IN_MEMORY_BYTES:
        yield io.BytesIO(b"".join(buffers))
        return
    with tempfile.NamedTemporaryFile(prefix="stepop-") as file:
        try:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
        except OSError as error:
            raise StoreError(
                f"{path} could not be copied for its way into a Volume: {error}. Give the worker room in "
                f"{tempfile.gettempdir()}, or set TMPDIR to a folder that has some"
            ) from error
        yield file.name


def folders_below(files: VolumeFiles, top: str, parts: int) -> dict[str, list[VolumeFile]]:
    """Return the folders of a depth, each with the files in it.

    :param parts: number of the parts of the path of such a folder
    """
    found: dict[str, list[VolumeFile]] = {}
    for entry in files.entries(top, is_deep=True) or []:
        names = entry.path.split("/")
        if not entry.is_folder and len(names) > parts:
            found.setdefault("/".join(names[:parts]), []).append(entry)
    return found


def _to_file(entry: Any) -> VolumeFile:
    from modal.types import FileEntryType

    return VolumeFile(
        entry.path.strip("/"), entry.size, float(entry.mtime), entry.type is FileEntryType.DIRECTORY
    )
