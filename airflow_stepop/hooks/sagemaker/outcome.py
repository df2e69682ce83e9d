"""Finds the outcome of a training job in its output, and the receipt that proves it. Called by the hook.

SageMaker copies ``/opt/ml/model`` to ``<S3OutputPath>/<job>/output``. With ``CompressionType: NONE`` the
files lie there by themselves. Where only ``model.tar.gz`` lies there, the worker unpacks the step's files.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html
"""

from __future__ import annotations

import tarfile
import tempfile
from typing import TYPE_CHECKING, BinaryIO

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.sagemaker.places import OUTPUT_FOLDER
from airflow_stepop.runner.protocol import OUTCOME
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.bucket import CHUNK_BYTES
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store

ARCHIVE = "model.tar.gz"
UNPACKED_BYTES = 4 << 30  # of the step's files in model.tar.gz
UNPACKED_FILES = 10_000


class Output:
    """The output of one job in its store.

    :param result_uri: the step's folder for results, which ends with the job's name
    """

    def __init__(self, result_uri: str) -> None:
        self.result_uri = result_uri
        self.store, self.path = locate(result_uri)

    def base_uri(self) -> str | None:
        """Return the folder with ``outcome.json``; ``None``: it is not there, perhaps not yet.

        The objects of a failed job may come a little after its status.
        """
        names = list(self.store.list(f"{self.path}/output"))
        ending = f"/{OUTPUT_FOLDER}/{OUTCOME}"
        found = sorted(name for name in names if name.endswith(ending))
        if found:
            return self.store.uri(found[0].removesuffix(f"/{OUTCOME}"))
        archives = sorted(name for name in names if name.endswith(f"/{ARCHIVE}"))
        return self._unpack(archives[0]) if archives else None

    def read(self, base_uri: str, limit: int) -> bytes:
        """Return the bytes of ``outcome.json``.

        :param limit: most bytes that are read
        :raises OutcomeLostError: it is gone, or larger
        """
        path = self.store.path_of(f"{base_uri}/{OUTCOME}") or ""
        size = self.store.size_of(path)
        if size > limit:
            raise OutcomeLostError(
                f"{self.store.uri(path)} has {size} bytes, more than the {limit} of an outcome"
            )
        return bytes(self.store.read(path, size))

    def model_uri(self) -> str | None:
        """Return the folder with the step's own files of ``/opt/ml/model``; ``None``: there are none."""
        top = f"{self.path}/output/model/"
        names = self.store.list(f"{self.path}/output/model")
        is_there = any(not name.removeprefix(top).startswith(f"{OUTPUT_FOLDER}/") for name in names)
        return f"{self.result_uri}/output/model" if is_there else None

    def _unpack(self, archive: str) -> str | None:
        """Copy the step's files out of ``model.tar.gz`` to ``result_uri``; return their folder.

        :raises OutcomeLostError: they are too many or too large
        """
        target = f"{self.path}/output/model/{OUTPUT_FOLDER}"
        with tempfile.TemporaryFile() as stream:
            _download(self.store, archive, stream)
            stream.seek(0)
            count = size = 0
            is_there = False
            with tarfile.open(fileobj=stream, mode="r:gz") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    if not name.startswith(f"{OUTPUT_FOLDER}/") or not member.isfile():
                        continue
                    count, size = count + 1, size + member.size
                    if count > UNPACKED_FILES or size > UNPACKED_BYTES:
                        raise OutcomeLostError(f"{self.store.uri(archive)} holds too much to be unpacked")
                    data = tar.extractfile(member)
                    if data is not None and ".." not in name.split("/"):
                        self.store.put_new(f"{target}/{name.partition('/')[2]}", data.read())
                        is_there = is_there or name == f"{OUTPUT_FOLDER}/{OUTCOME}"
        return self.store.uri(target) if is_there else None


def _download(store: Store, path: str, stream: BinaryIO) -> None:
    size = store.size_of(path)
    for begin in range(0, size, CHUNK_BYTES):
        chunk = bytearray(min(CHUNK_BYTES, size - begin))
        for _ in store.fill([PathRange(path, len(chunk), begin)], memoryview(chunk)):
            pass
        stream.write(chunk)
