"""Builds the files of the runner's input folder: the payload, and the addresses of the parts in the store.

The runner uses the standard library only, so it has no SDK for a bucket. It reads payload parts and writes
the segments of its outcome with pre-signed addresses. A hook's ``submit`` calls :func:`input_files` and puts
the files into the runner's input folder.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.core.host import airflow_folder
from airflow_stepop.core.signing_key import derived_keys
from airflow_stepop.hooks.common.signing import Signer, in_bucket
from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.runner.protocol import CHECKPOINT, LOCATIONS, MANIFEST, OUTCOME, RUNNER, SECRETS, UPLOADS
from airflow_stepop.stores.bucket import MIB
from airflow_stepop.stores.folder import THIS_HOST, folder_of, path_in_job

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer, ObjectRange, Payload, StepSpec
    from airflow_stepop.runner.wire import Checkpoint, Locations, Ranges, Uploads

# The runner writes a large outcome in pieces, one signed PUT each. The number of pieces is unknown when the
# addresses are signed; an unused address costs 60 bytes of the job's input.
PIECES = 64
LEAST_PIECE_BYTES = 8 * MIB
SNAPSHOT = ".tar"  # end of the name of a snapshot


@dataclass(frozen=True)
class InputFile:
    """One file of the runner's input folder.

    :param buffers: the file's bytes, in pieces
    :param is_secret: only the step may read the file: it holds secrets of the user, or signed addresses. In a
        bucket, such a file must be sealed (see :mod:`.staging`)
    """

    buffers: Sequence[Buffer]
    is_secret: bool = False

    @property
    def data(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.buffers)


def input_files(
    payload: Payload,
    spec: StepSpec,
    mounts: Mapping[str, str] = THIS_HOST,
    *,
    has_output_folder: bool = False,
    may_restart: bool = False,
    checkpoint_folder: str | None = None,
) -> dict[str, InputFile]:
    """Return all files of the runner's input folder: file name -> :class:`InputFile`.

    ``secrets.json`` and ``checkpoint.json`` are secret. If the store is a bucket, ``locations.json`` and
    ``uploads.json`` are secret too, because they hold signed addresses. Put secret files where only the step
    can read them. If the store is a folder, ``locations.json`` holds paths on this host. For a job on another
    host, ``payload.spill.make_reachable`` must have moved the payload out of the folder before.

    :param mounts: what the job sees as files, such as ``{"gs://": "/gcs/"}`` (see
        :func:`~airflow_stepop.stores.folder.path_in_job`). No address is signed for it. By default the job
        sees the folders of this host
    :param has_output_folder: the service brings the job's output folder back. Then there is no
        ``uploads.json``. The signed addresses to read last for ``start_timeout`` (or a day) and an hour
        after the submit, however long the step runs
    :param may_restart: the service may start the job again by itself, for example after a preemption. The
        job then reads its input again, so the addresses to read last until the step's deadline, too. Without
        ``has_output_folder`` they always do
    :param checkpoint_folder: folder in the job that the service copies to the store, for the checkpoint. Then
        no address is signed for the checkpoint, and ``mounts`` must have the :func:`newest_snapshot`
    :raises StepConfigError: the step may need its signed addresses for longer than a signature is valid
    """
    files = {
        name: InputFile(part.buffers) for name, part in payload.parts.items() if part.buffers is not None
    }
    signer = Signer(spec, mounts, reads_once=has_output_folder and not may_restart)
    locations = _locations(payload, signer)
    if locations:
        files[LOCATIONS] = _to_json(locations, signer.is_used)
    if _is_signed(spec.result_uri, mounts) and not has_output_folder:
        uploads = _uploads(spec, signer)
        if "outcome" in payload.features:
            (uploads["outcome"],) = signer.writable(spec.result_uri, [OUTCOME])
        files[UPLOADS] = _to_json(uploads, is_secret=True)
    features = set(payload.features)
    if _is_signed(spec.checkpoint_uri, mounts):
        files[CHECKPOINT] = _to_json(_checkpoint(spec, signer, checkpoint_folder), is_secret=True)
        features.add("snapshots")
    elif spec.checkpoint_uri:
        features.add("owned")
    if payload.secrets:
        files[SECRETS] = InputFile([payload.secrets_file], is_secret=True)
    needed = frozenset(features | ({"network"} if signer.is_used else set()))
    runner = runner_zipapp(needed, airflow_folder("runner"))
    return {**files, MANIFEST: InputFile([payload.manifest]), RUNNER: InputFile([runner])}


def _is_signed(uri: str, mounts: Mapping[str, str]) -> bool:
    """Return whether the job needs signed addresses to write to the folder ``uri``."""
    return bool(uri) and folder_of(uri) is None and path_in_job(uri, mounts) is None


def _locations(payload: Payload, signer: Signer) -> Locations:
    named = {name: part.ranges for name, part in payload.parts.items() if part.ranges}
    addresses = signer.readable([one.uri for ranges in named.values() for one in ranges])

    def location(ranges: Sequence[ObjectRange]) -> str | Ranges:
        if len(ranges) == 1 and ranges[0].offset is None:
            return addresses[ranges[0].uri]
        return [[addresses[one.uri], one.offset or 0, one.size] for one in ranges]

    return {name: location(ranges) for name, ranges in named.items()}


def _uploads(spec: StepSpec, signer: Signer) -> Uploads:
    names = [f"{index:02}.bin" for index in range(PIECES)]
    urls = signer.writable(spec.result_uri, names)
    bucket, _ = in_bucket(spec.result_uri)
    return {
        "urls": dict(zip(names, urls, strict=True)),
        "headers": dict(bucket.put_headers()),
        "least_bytes": LEAST_PIECE_BYTES,
        "most_bytes": bucket.largest_put_bytes,
    }


def newest_snapshot(spec: StepSpec) -> str | None:
    """Return the URI of the newest snapshot of the task's earlier jobs; ``None`` if there is none."""
    bucket, folder = in_bucket(spec.checkpoint_uri)
    snapshots = (one for one in bucket.objects(folder) if one.path.endswith(SNAPSHOT))
    found = max(snapshots, key=lambda one: (one.modified_at, one.path), default=None)
    return bucket.uri(found.path) if found is not None else None


def _checkpoint(spec: StepSpec, signer: Signer, own_folder: str | None) -> Checkpoint:
    """Return the place where the runner saves snapshots, and the places from which it restores one.

    Each job saves under its own name. The runner first tries to restore the job's own snapshot, because a
    service may start a job twice, and then the newest snapshot of the earlier jobs.

    :param own_folder: see ``checkpoint_folder`` of :func:`input_files`
    """
    name = f"{spec.name}{SNAPSHOT}"
    bucket, _ = in_bucket(spec.checkpoint_uri)
    own, earlier = f"{spec.checkpoint_uri}/{name}", newest_snapshot(spec)
    if own_folder is not None:
        put = f"{own_folder}/{name}"
        urls = {own: put, **(signer.readable([earlier]) if earlier else {})}
    else:
        (put,) = signer.writable(spec.checkpoint_uri, [name])
        urls = signer.readable([own, *([earlier] if earlier else [])])
    key, *earlier_keys = checkpoint_keys(spec.checkpoint_uri)
    table: Checkpoint = {
        "get": [{"url": url, "uri": uri} for uri, url in urls.items()],
        "put": put,
        "headers": dict(bucket.put_headers()),
        "key": key.hex(),
        "most_bytes": bucket.largest_put_bytes,
    }
    if earlier_keys:
        table["earlier_keys"] = [one.hex() for one in earlier_keys]
    return table


def checkpoint_keys(checkpoint_uri: str) -> tuple[bytes, ...]:
    """Return the keys of the checkpoints of a task: the first one signs, and all verify.

    :param checkpoint_uri: the task's folder in a bucket, see :class:`~airflow_stepop.job.StepSpec`
    """
    _, folder = in_bucket(checkpoint_uri)
    return derived_keys(f"checkpoint\n{folder}")


def _to_json(table: Mapping[str, object], is_secret: bool) -> InputFile:
    data = json.dumps(table, separators=(",", ":")).encode()
    return InputFile([gzip.compress(data, mtime=0) if is_secret else data], is_secret)
