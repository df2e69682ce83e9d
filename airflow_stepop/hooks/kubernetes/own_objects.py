"""Which Job and which pods are those of a handle. ``hook.py`` and ``job_states.py`` call it.

Somebody may delete the Job of a step and create another one with its name. The other Job has another uid, and
most often another nonce. Its pods have the same label with the name as ours, and the uid of their own Job.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_stepop.hooks.common.same_job import is_same_job
from airflow_stepop.hooks.kubernetes.manifests import NONCE
from airflow_stepop.hooks.kubernetes.objects import Json
from airflow_stepop.job import JobHandle


def uid_of(found: Json) -> str:
    """Return the uid of an object, which the API server chooses and never gives again."""
    return str(found["metadata"]["uid"])


def is_own(handle: JobHandle, job: Json) -> bool:
    """Return whether a Job, whole or without most of its fields, is that of the handle."""
    labels = job["metadata"].get("labels") or {}
    return is_same_job(handle, nonce=str(labels.get(NONCE, "")), instance=uid_of(job))


def own_objects(
    handle: JobHandle, job: Json | None, pods: Sequence[Json]
) -> tuple[Json | None, Sequence[Json]]:
    """Return the handle's Job (``None``: it is gone) and its pods, without those of another Job.

    While the Job is there, its pods have it as their owner: another pod with the label of the name is not
    believed. A pod whose Job is gone, or is being deleted without its pods, may still run. It stays among the
    pods, unless it is known to be that of another Job.

    :param job: the Job that has the name of the handle's job now, if there is one
    :param pods: all pods with the name of the job as a label
    """
    if job is not None and is_own(handle, job):
        owners = ("", uid_of(job)) if "deletionTimestamp" in job["metadata"] else (uid_of(job),)
        return job, [pod for pod in pods if _owner_of(pod) in owners]
    if handle.instance:
        return None, [pod for pod in pods if _owner_of(pod) in ("", handle.instance)]
    other = uid_of(job) if job is not None else None
    return None, [pod for pod in pods if _owner_of(pod) != other and _may_have_nonce(pod, handle.nonce)]


def _owner_of(pod: Json) -> str:
    """Return the uid of the pod's Job; empty for a pod that no Job owns."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(one["uid"]) for one in owners if one.get("kind", "Job") == "Job"), "")


def _may_have_nonce(pod: Json, nonce: str) -> bool:
    found = (pod["metadata"].get("labels") or {}).get(NONCE)
    return not nonce or found in (None, nonce)
