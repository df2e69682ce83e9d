"""Reads the outcome of a step, and preserves it as annotations of the Job.

Pods and their logs are lost when their node is removed; the Job and its annotations are not.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.common.receipts import Receipt, parse_receipt
from airflow_stepop.hooks.kubernetes.manifests import (
    FAILURE,
    OUTCOME_IN_LOG,
    PRESERVED_FRAMES,
    PRESERVED_RECEIPT,
)
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.pods import newest, receipt_of
from airflow_stepop.hooks.kubernetes.status import is_over
from airflow_stepop.runner.frames import from_lines
from airflow_stepop.runner.protocol import FRAME_PREFIX, FRAMES
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json
    from airflow_stepop.job import JobStatus

log = logging.getLogger(__name__)

MOST_CHARS = 64 << 10  # all annotations of an object together may have 256 KiB


def preserved_annotations(
    cluster: Cluster, job: Json, pods: Sequence[Json], status: JobStatus
) -> dict[str, str]:
    """Return the annotations that preserve the failure, the receipt and the outcome of a step that is over.

    A pod that cannot be seen now is not noted as lost: a later caller may find it. If only the pod's log has
    the outcome, its receipt is preserved together with these lines of the log, or not at all.
    """
    annotations: dict[str, str] = {}
    receipt = receipt_of(pods)
    if (
        pods and status.failure is not None and is_over(job)
    ):  # before, it would count as the reason of the end
        annotations[FAILURE] = json.dumps(status.failure.to_json())
    if receipt is None:
        return annotations
    if receipt.outcome is None and OUTCOME_IN_LOG in job["metadata"]["annotations"]:
        frames = _frames(cluster, pods)
        if not 0 < len(frames) <= MOST_CHARS:
            return annotations
        annotations[PRESERVED_FRAMES] = frames
    return {**annotations, PRESERVED_RECEIPT: json.dumps(receipt.to_json())}


def _frames(cluster: Cluster, pods: Sequence[Json]) -> str:
    try:
        lines = PodLog(cluster, newest(pods)).frames()
    except Exception as error:  # noqa: BLE001, RUF100 - its node may be going; the worker may have better luck
        log.info("The log of a step that is over cannot be read: %s", error)
        return ""
    return "\n".join(line for line in lines if FRAME_PREFIX in line)


def preserved_receipt(job: Json) -> Receipt | None:
    return parse_receipt(job["metadata"]["annotations"].get(PRESERVED_RECEIPT, ""))


def preserved_frames(job: Json) -> Sequence[str]:
    """Return the lines of the log that carry the outcome, masked as they were there."""
    return str(job["metadata"]["annotations"].get(PRESERVED_FRAMES, "")).splitlines()


def read_outcome(cluster: Cluster, job: Json, pods: Sequence[Json], uri: str, receipt: Receipt) -> bytes:
    """Return an outcome that the termination message has no room for, from the log or from the store."""
    name = job["metadata"]["name"]
    if OUTCOME_IN_LOG not in job["metadata"]["annotations"]:
        store, path = locate(uri)
        return bytes(store.read(path, receipt.size))
    secret = cluster.get("secrets", name)
    key = base64.b64decode(secret["data"][FRAMES]) if secret is not None else b""
    lines = preserved_frames(job) or PodLog(cluster, newest(pods)).frames()
    data = from_lines(lines, key) if key else None
    if data is None:
        raise OutcomeLostError(
            f"the outcome of job {name} was printed to its log, and is not there any more: the node has "
            "rotated the log, or the pod or its Secret is gone"
        )
    return data
