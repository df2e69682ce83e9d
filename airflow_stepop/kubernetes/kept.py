"""What a Job keeps of its pod when it is over: a node that is removed takes its pods and their logs along."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.kubernetes.log import PodLog
from airflow_stepop.kubernetes.manifests import FAILURE, FRAMES_KEPT, RECEIPT_KEPT
from airflow_stepop.kubernetes.pods import newest, receipt_in, receipt_of
from airflow_stepop.kubernetes.verdict import is_over
from airflow_stepop.runner.protocol import FRAME_PREFIX

if TYPE_CHECKING:
    from airflow_stepop.job import JobStatus
    from airflow_stepop.kubernetes.cluster import Cluster
    from airflow_stepop.kubernetes.objects import Json

MOST_CHARS = 64 << 10  # all annotations of an object together may have 256 KiB


def notes_on(cluster: Cluster, job: Json, pods: Sequence[Json], status: JobStatus) -> dict[str, str]:
    """Return as annotations what the pods of a job tell of a step that is over."""
    notes, receipt = {}, receipt_of(pods)
    if status.failure is not None and is_over(job):  # before that, the note would be the reason for its end
        notes[FAILURE] = json.dumps(status.failure.to_json())
    if receipt is not None:
        notes[RECEIPT_KEPT] = json.dumps(receipt)
    if receipt is None or "outcome" in receipt:
        return notes
    frames = "\n".join(line for line in PodLog(cluster, newest(pods)).frames() if FRAME_PREFIX in line)
    return {**notes, FRAMES_KEPT: frames} if 0 < len(frames) <= MOST_CHARS else notes


def receipt_kept(job: Json) -> Mapping[str, Any] | None:
    return receipt_in(job["metadata"]["annotations"].get(RECEIPT_KEPT, ""))


def frames_kept(job: Json) -> Sequence[str]:
    """Return the lines of the log that carried the outcome; they are as unreadable as there."""
    return str(job["metadata"]["annotations"].get(FRAMES_KEPT, "")).splitlines()
