"""What the service does with S3, always with the permissions of the job's role.

The S3 server knows one key; the role's policies are evaluated here before each call.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.emulators.sagemaker.iam import Role

Json = dict[str, Any]
DOWNLOAD_DENIED = (
    "ClientError: Data download failed:Unable to download object {url} (AccessDenied: Access Denied)"
)
TWO_SLASHES = (
    "ClientError: Data download failed:Failed to download data. S3 key: {url} has an illegal char "
    "sub-sequence '//' in it"
)
UPLOAD_FAILED = "ClientError: Artifact upload failed:Unable to upload object {url} ({why})"  # inferred


class DeniedError(Exception):
    """The role may not do this in S3."""


class TransferError(Exception):
    """A download or an upload failed; the text is the FailureReason."""


class S3:
    """The S3 of the account."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        import boto3
        from botocore.config import Config

        config = Config(s3={"addressing_style": "path"}, max_pool_connections=50)
        self.key, self.secret = key, secret
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=config,
        )

    def of(self, role: Role) -> RoleS3:
        return RoleS3(self.client, role)


class RoleS3:
    """S3 as a role sees it. Each call raises ``DeniedError`` where the role's policies do not allow it."""

    def __init__(self, client: Any, role: Role) -> None:
        self._client, self._role = client, role

    def _require(self, action: str, resource: str, prefix: str | None = None) -> None:
        context = {} if prefix is None else {"s3:prefix": prefix}
        if not self._role.may(action, f"arn:aws:s3:::{resource}", context):
            raise DeniedError(f"{action} {resource}")

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix. A bucket that does not exist has none."""
        self._require("s3:ListBucket", bucket, prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            for page in pages:
                yield from (entry["Key"] for entry in page.get("Contents", []))
        except self._client.exceptions.NoSuchBucket:
            return

    def has_bucket(self, bucket: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError:
            return False
        return True

    def may_put(self, bucket: str, key: str) -> bool:
        return self._role.may("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}")

    def read(self, bucket: str, key: str) -> bytes:
        self._require("s3:GetObject", f"{bucket}/{key}")
        return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def get(self, bucket: str, key: str, path: Path) -> None:
        self._require("s3:GetObject", f"{bucket}/{key}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(bucket, key, str(path))

    def put(self, path: Path, bucket: str, key: str) -> None:
        self._require("s3:PutObject", f"{bucket}/{key}")
        with path.open("rb") as source:
            self._client.put_object(Bucket=bucket, Key=key, Body=source)


def split_url(url: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://BUCKET/KEY``."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def download_channel(s3: RoleS3, channel: Json, folder: Path) -> None:
    """Copy the objects of an input channel into its folder, or raise ``TransferError``."""
    from botocore.exceptions import ClientError

    folder.mkdir(parents=True, exist_ok=True)
    source = channel["DataSource"]["S3DataSource"]
    key = source["S3Uri"]
    bucket = split_url(key)[0]
    try:
        for bucket, key, name in _objects(s3, source):
            if "//" in key:
                raise TransferError(TWO_SLASHES.format(url=f"s3://{bucket}/{key}"))
            s3.get(bucket, key, folder / name)
    except (DeniedError, ClientError):
        url = key if "://" in key else f"s3://{bucket}/{key}"
        raise TransferError(DOWNLOAD_DENIED.format(url=url)) from None


def _objects(s3: RoleS3, source: Json) -> Iterator[tuple[str, str, str]]:
    """Yield bucket, key and local name of each object of a channel."""
    bucket, prefix = split_url(source["S3Uri"])
    if "//" in prefix:
        raise TransferError(TWO_SLASHES.format(url=source["S3Uri"]))
    if source["S3DataType"] == "S3Prefix":
        for key in s3.keys(bucket, prefix):
            if not key.endswith("/"):
                yield bucket, key, _local_name(prefix, key)
        return
    first, *names = json.loads(s3.read(bucket, prefix))
    bucket, prefix = split_url(first["prefix"])
    for name in names:
        yield bucket, prefix + name, name


def _local_name(prefix: str, key: str) -> str:
    """Return the name below the channel's folder. A prefix names a folder, or the beginning of names."""
    if key.startswith(f"{prefix.rstrip('/')}/") or not prefix:
        return key[len(prefix.rstrip("/")) :].lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def files_below(folder: Path) -> dict[str, Path]:
    """Return the regular files below a folder by their relative names."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                found[str(path.relative_to(folder))] = path
    return found


def upload_folder(s3: RoleS3, folder: Path, url: str, *, plain: bool) -> None:
    """Upload a folder as objects below ``url``, or as ``url.tar.gz``; an empty folder is left out."""
    from botocore.exceptions import BotoCoreError, ClientError

    files = files_below(folder)
    bucket, key = split_url(url)
    if files and not plain:
        packed = folder.parent / f".{folder.name}.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            for entry in sorted(folder.iterdir()):
                archive.add(entry, entry.name)
        files, key = {"": packed}, f"{key}.tar.gz"
    for name, path in files.items():
        target = f"{key}/{name}" if name else key
        try:
            s3.put(path, bucket, target)
        except (DeniedError, ClientError, BotoCoreError, OSError) as error:
            why = "AccessDenied: Access Denied" if isinstance(error, DeniedError) else str(error)
            raise TransferError(UPLOAD_FAILED.format(url=f"s3://{bucket}/{target}", why=why)) from error


class CheckpointSync:
    """Copies a folder to S3 continuously: each file that is new or has changed, even half written.

    Nothing is removed from S3, and the order of the files is not promised.
    """

    def __init__(self, s3: RoleS3, folder: Path, url: str, pause_s: float) -> None:
        self._s3, self._folder, self._url, self._pause_s = s3, folder, url.rstrip("/"), pause_s
        self._seen: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def restore(self) -> None:
        """Bring what lies in S3 into the folder, before the container starts."""
        bucket, prefix = split_url(self._url)
        for key in self._s3.keys(bucket, f"{prefix}/"):
            name = key[len(prefix) + 1 :]
            if name and not name.endswith("/"):
                self._s3.get(bucket, key, self._folder / name)
                self._seen[name] = _stamp(self._folder / name)

    def start(self) -> None:
        self._thread.start()

    def finish(self, *, upload: bool) -> None:
        """End the copying; ``upload``: once more before that, as after a container that ended by itself."""
        self._over.set()
        if self._thread.ident:
            self._thread.join()
        if upload:
            self._once()

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            self._once()

    def _once(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, prefix = split_url(self._url)
        for name, path in files_below(self._folder).items():
            try:
                stamp = _stamp(path)
                if self._seen.get(name) != stamp:
                    self._s3.put(path, bucket, f"{prefix}/{name}")
                    self._seen[name] = stamp
            except (OSError, DeniedError, ClientError, BotoCoreError):
                continue  # the next round tries again


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
