"""The outcome of a step: where it is, and what a Job keeps of its pod when that is over.

A node that is removed takes its pods and their logs along.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.kubernetes.manifests import FAILURE, FRAMES_KEPT, OUTCOME_IN_LOG, RECEIPT_KEPT
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.pods import newest, receipt_in, receipt_of
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


def notes_on(cluster: Cluster, job: Json, pods: Sequence[Json], status: JobStatus) -> dict[str, str]:
    """Return as annotations what the pods of a job tell of a step that is over.

    Nothing is noted of a pod that is not seen: whoever looks later may find it. A receipt is noted together
    with the outcome that it stands for, where that is in no other place than the pod's log.
    """
    notes: dict[str, str] = {}
    receipt = receipt_of(pods)
    if pods and status.failure is not None and is_over(job):  # before that, it would be the reason of the end
        notes[FAILURE] = json.dumps(status.failure.to_json())
    if receipt is None:
        return notes
    if "outcome" not in receipt and OUTCOME_IN_LOG in job["metadata"]["annotations"]:
        frames = _frames(cluster, pods)
        if not 0 < len(frames) <= MOST_CHARS:
            return notes
        notes[FRAMES_KEPT] = frames
    return {**notes, RECEIPT_KEPT: json.dumps(receipt)}


def _frames(cluster: Cluster, pods: Sequence[Json]) -> str:
    try:
        lines = PodLog(cluster, newest(pods)).frames()
    except Exception as error:  # noqa: BLE001, RUF100 - its node may be going; the worker may have better luck
        log.info("The log of a step that is over cannot be read: %s", error)
        return ""
    return "\n".join(line for line in lines if FRAME_PREFIX in line)


def receipt_kept(job: Json) -> Mapping[str, Any] | None:
    return receipt_in(job["metadata"]["annotations"].get(RECEIPT_KEPT, ""))


def frames_kept(job: Json) -> Sequence[str]:
    """Return the lines of the log that carried the outcome; they are as unreadable as there."""
    return str(job["metadata"]["annotations"].get(FRAMES_KEPT, "")).splitlines()


def inline(receipt: Mapping[str, Any]) -> bytes | None:
    try:
        return base64.b64decode(receipt["outcome"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        return None


def sent(cluster: Cluster, job: Json, pods: Sequence[Json], uri: str, receipt: Mapping[str, Any]) -> bytes:
    """Return an outcome that the termination message has no room for, from the log or from the store."""
    name = job["metadata"]["name"]
    if OUTCOME_IN_LOG not in job["metadata"]["annotations"]:
        store, path = locate(uri)
        return bytes(store.read(path, receipt["size"]))
    secret = cluster.get("secrets", name)
    key = base64.b64decode(secret["data"][FRAMES]) if secret is not None else b""
    lines = frames_kept(job) or PodLog(cluster, newest(pods)).frames()
    data = from_lines(lines, key) if key else None
    if data is None:
        raise OutcomeLostError(
            f"the outcome of job {name} was printed to its log, and is not there any more: the node has "
            "rotated the log, or the pod or its Secret is gone"
        )
    return data
