"""Where a job's data lie: in Airflow's store, in S3, in the job. Called by the hook and ``request.py``.

::

    jobs/.../<job>/<digest>/   staged input, the channel `stepop`: see hooks/common/staging.py
    jobs/.../<job>/<digest>.manifest   list of large parts, the channel `stepop-parts`
    jobs/.../<job>/attempts/   /opt/ml/checkpoints of a job that the service may start again
    checkpoints/.../<job>/     /opt/ml/checkpoints of a step with checkpoints
    results/.../<job>/output/  /opt/ml/model, which the service copies at the end
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from airflow_stepop.exceptions import StepConfigError, StoreError
from airflow_stepop.hooks.common.input_files import newest_snapshot
from airflow_stepop.runner.protocol import LOCATIONS
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.paths import JOBS, RESULTS

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.input_files import InputFile
    from airflow_stepop.job import Payload, StepSpec
    from airflow_stepop.stores.base import Store

# https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
CHANNEL, PARTS_CHANNEL = "stepop", "stepop-parts"
INPUTS = "/opt/ml/input/data"
INPUT, PARTS = f"{INPUTS}/{CHANNEL}", f"{INPUTS}/{PARTS_CHANNEL}"
OUTPUT_FOLDER = "stepop"  # below /opt/ml/model, so that the step's own files there stay apart
OUTPUT = f"/opt/ml/model/{OUTPUT_FOLDER}"
EXPORTED = "/opt/ml/model", "/opt/ml/output/data"  # the service copies them after the container has ended
FAILURE_FILE = "/opt/ml/output/failure"
CHECKPOINTS = "/opt/ml/checkpoints"


@dataclass(frozen=True)
class Places:
    """Where the data of one job lie. Addresses of S3 are ``s3://bucket/key``, without a connection.

    :param store: the bucket of the step
    :param results: path in the store below which the service writes ``output``; ends with the job's name
    :param folder: path in the store of the job's own input
    :param checkpoints: path in the store that the service copies ``/opt/ml/checkpoints`` to; empty: the job
        is never started twice and has no checkpoints
    """

    store: BucketStore
    results: str
    folder: str
    checkpoints: str = ""

    @property
    def result_uri(self) -> str:
        return self.store.uri(self.results)

    @property
    def folder_uri(self) -> str:
        return self.store.uri(self.folder)

    def native(self, path: str) -> str:
        """Return the address of a path in S3, without ``//`` in its key, which SageMaker refuses."""
        key = re.sub("/+", "/", f"{self.store.prefix}/{path}").strip("/")
        return f"s3://{self.store.bucket}/{key}"


def places_of(spec: StepSpec, may_restart: bool) -> Places:
    """Return where the data of a step's job lie.

    :param may_restart: the service may start the job again by itself
    :raises StepConfigError: the step's store is no bucket in S3
    """
    store = bucket_of(spec.result_uri)
    path = store.path_of(spec.result_uri) or ""
    results = path if path.endswith(f"/{spec.name}") else f"{path}/{spec.name}"
    top, _, rest = results.partition("/")
    folder = f"{JOBS}/{rest if top == RESULTS else results}"
    checkpoints = f"{folder}/attempts" if may_restart else ""
    if spec.checkpoint_uri:
        checkpoints = f"{bucket_of(spec.checkpoint_uri).path_of(spec.checkpoint_uri)}/{spec.name}"
    return Places(store, results, folder, checkpoints)


def own_folder(uri: str, job_name: str) -> tuple[Store, str]:
    """Return the store and the path of a job's staged input, which is deleted with the job.

    The address may come from the variables of a job that somebody else has created.

    :raises StoreError: it is not the folder of this job, or lies outside the configured stores
    """
    store, path = locate(uri)
    first, *others = path.split("/")
    if first != JOBS or others[-1:] != [job_name] or "" in others:
        raise StoreError(
            f"refused to delete {uri}: it is not a folder of the job {job_name}. Somebody else may have "
            "created the job with the labels of this Airflow; see its page in the AWS console"
        )
    return store, path


def bucket_of(uri: str) -> BucketStore:
    """Return the bucket that ``uri`` points into.

    :raises StepConfigError: it is no bucket in S3, which SageMaker reads and writes itself
    """
    store, _ = locate(uri)
    if not is_s3(store):
        raise StepConfigError(
            f"backend 'sagemaker' needs a store in S3, and the store of this step is {store}: set [stepop] "
            'store, or "store" below "stepop" in the extra of the connection, to s3://bucket/prefix'
        )
    if "//" in store.prefix or "//" in (store.path_of(uri) or ""):
        raise StepConfigError(
            f"SageMaker reads no object whose key contains '//': take the second slash out of {uri}"
        )
    return store


def is_s3(store: object) -> TypeGuard[BucketStore]:
    return isinstance(store, BucketStore) and store.url.startswith("s3://")


def parts_of(spec: StepSpec, payload: Payload, places: Places) -> dict[str, str]:
    """Return the objects that the service copies into the job: URI -> path in the job.

    Large parts of the payload and the newest checkpoint are among them, if they lie in the step's own bucket.
    The job reads the others by signed addresses.
    """
    uris = {one.uri for part in payload.parts.values() for one in part.ranges}
    snapshot = newest_snapshot(spec) if spec.checkpoint_uri else None
    paths = {uri: places.store.path_of(uri) for uri in sorted({*uris, *([snapshot] if snapshot else [])})}
    return {uri: f"{PARTS}/{path}" for uri, path in paths.items() if path is not None}


def check_isolated(payload: Payload, files: Mapping[str, InputFile]) -> None:
    """Check that a step with network isolation needs no network.

    :param files: the input folder of the job
    :raises StepConfigError: it needs packages, secrets that the job reads itself, or values that the service
        does not copy into the job
    """
    needed = []
    if "requirements" in payload.features:
        needed.append("requirements= installs packages (build an image that has them)")
    if "secret_references" in payload.features:
        needed.append("the step reads secrets from AWS (keep them in a connection of Airflow)")
    if LOCATIONS in files and files[LOCATIONS].is_secret:
        needed.append("values of the step lie in another store than its results (use one bucket for both)")
    if needed:
        raise StepConfigError(
            f"settings.enable_network_isolation leaves the step no network, but {', and '.join(needed)}"
        )


def write_parts_manifest(parts: Mapping[str, str], places: Places) -> str:
    """Write the list of the objects for the channel ``stepop-parts``; return its address in S3.

    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
    """
    if not parts:
        return ""
    paths = [path.removeprefix(f"{PARTS}/") for path in parts.values()]
    data = json.dumps([{"prefix": f"{places.native('')}/"}, *paths]).encode()
    path = f"{places.folder}/{hashlib.sha256(data).hexdigest()[:32]}.manifest"
    places.store.put_new(path, data)
    return places.native(path)
