"""Reads the outcome of a step, and preserves the outcome in annotations of the Job.

``KubernetesStepHook`` calls this module. The pod and its log are lost when their node is removed. The Job and
its annotations stay.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_stepop.core.signing_key import Purpose, sign, why_refused
from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.receipts import Receipt, parse_receipt
from airflow_stepop.hooks.kubernetes.manifests import (
    END,
    FAILURE,
    OUTCOME_IN_LOG,
    PRESERVED_FRAMES,
    PRESERVED_MAC,
    PRESERVED_RECEIPT,
    SUCCEEDED,
)
from airflow_stepop.hooks.kubernetes.own_objects import uid_of
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.pods import newest, receipt_of
from airflow_stepop.hooks.kubernetes.status import is_over, preserved_end
from airflow_stepop.job import JobState, JobStatus, OutcomeReport
from airflow_stepop.runner.frames import from_lines
from airflow_stepop.runner.protocol import FRAME_PREFIX, FRAMES
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json

log = logging.getLogger(__name__)

NO_MAC = "the pod is gone, and the copy of its message in the Job is not signed by this deployment"
MOST_CHARS = 64 << 10  # of the preserved log lines; the API limits all annotations of an object to 256 KiB


def annotations_of(job: Json) -> dict[str, str]:
    """Return the annotations of a Job. Somebody who may change Jobs may have removed all of them."""
    return job["metadata"].get("annotations") or {}


def preserved_annotations(
    cluster: Cluster, job: Json, pods: Sequence[Json], status: JobStatus
) -> dict[str, str]:
    """Return the annotations that preserve the end, the receipt and the outcome of a finished step.

    A missing pod is not recorded as lost, because a later caller may find the pod. If only the log has the
    outcome, the receipt is preserved only together with the log lines of the outcome.
    """
    if not pods:
        return {}
    annotations = {} if preserved_end(job) is not None else {END: json.dumps(status.to_json())}
    receipt = receipt_of(pods)
    # In a Job that is not over, the annotation FAILURE would mean that the hook ended the job
    if status.failure is not None and is_over(job):
        annotations[FAILURE] = json.dumps(status.failure.to_json())
    if receipt is None:
        return annotations
    if receipt.outcome is None and OUTCOME_IN_LOG in annotations_of(job):
        frames = _frames(cluster, pods)
        if not 0 < len(frames) <= MOST_CHARS:
            return annotations
        annotations[PRESERVED_FRAMES] = frames
    text = json.dumps(receipt.to_json())
    mac = sign(Purpose.RECEIPT, _signed_bytes(job, text))  # whoever may patch Jobs can change the receipt
    return {**annotations, PRESERVED_RECEIPT: text, PRESERVED_MAC: mac}


def ending_annotations(status: JobStatus) -> dict[str, str]:
    """Return the annotations that preserve the end of a step whose sidecars are being ended."""
    if status.state is JobState.SUCCEEDED:
        return {END: json.dumps(status.to_json()), SUCCEEDED: "true"}
    failure = status.failure or Failure(Category.USER_ERROR, "The step failed: see the task's log")
    end = replace(status, failure=failure)
    return {END: json.dumps(end.to_json()), FAILURE: json.dumps(failure.to_json())}


def _frames(cluster: Cluster, pods: Sequence[Json]) -> str:
    try:
        lines = PodLog(cluster, newest(pods)).frames()
    except Exception as error:  # noqa: BLE001, RUF100 - the worker reads the log again, and may succeed
        log.info("The log of a finished step cannot be read: %s", error)
        return ""
    return "\n".join(line for line in lines if FRAME_PREFIX in line)


def preserved_receipt(job: Json) -> tuple[Receipt | None, str]:
    """Return the preserved receipt, and why its digest does not count; an empty text if it counts."""
    text, mac = (annotations_of(job).get(name, "") for name in (PRESERVED_RECEIPT, PRESERVED_MAC))
    why = why_refused(Purpose.RECEIPT, _signed_bytes(job, text), mac)
    return parse_receipt(text), f"{NO_MAC}: {why}" if why else ""


def _signed_bytes(job: Json, text: str) -> bytes:
    """Return what the MAC covers. Nobody can choose the uid of a Job."""
    return json.dumps(["annotation", uid_of(job), text]).encode()


def reported(found: OutcomeReport, missing: str) -> OutcomeReport:
    """Return what a job reports: without a digest if it does not count, so that no pickle is loaded.

    :param missing: why it does not count
    """
    return replace(found, digest=None, missing=missing) if missing else found


def preserved_frames(job: Json) -> Sequence[str]:
    """Return the preserved log lines that carry the outcome, still masked."""
    return str(annotations_of(job).get(PRESERVED_FRAMES, "")).splitlines()


def read_outcome(cluster: Cluster, job: Json, pods: Sequence[Json], uri: str, receipt: Receipt) -> bytes:
    """Return an outcome that is too large for the termination message, from the log or from the store.

    :param uri: address of the outcome in the store
    :param receipt: has the size of the outcome
    :raises OutcomeLostError: the log has no complete outcome, or the Secret with its key is gone
    """
    name = job["metadata"]["name"]
    if OUTCOME_IN_LOG not in annotations_of(job):
        store, path = locate(uri)
        return bytes(store.read(path, receipt.size))
    secret = cluster.get("secrets", name)
    key = base64.b64decode(secret["data"][FRAMES]) if secret is not None else b""
    lines = preserved_frames(job) or PodLog(cluster, newest(pods)).frames()
    data = from_lines(lines, key) if key else None
    if data is None:
        raise OutcomeLostError(
            f"the outcome of job {name} was printed to its log, but is not there any more: the node has "
            "rotated the log, or the pod or its Secret is gone"
        )
    return data
