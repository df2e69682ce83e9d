"""Ends a Job, deletes it, and writes its annotations: only the Job that was read. ``hook.py`` calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_stepop.hooks.kubernetes.cluster import status_of
from airflow_stepop.hooks.kubernetes.own_objects import uid_of
from airflow_stepop.hooks.kubernetes.status import has_reason

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json


def end_job(cluster: Cluster, job: Json, annotations: Mapping[str, str]) -> None:
    """Let the cluster end a job: SIGTERM, the grace period, SIGKILL. ``annotations`` say why.

    The Job is ended by activeDeadlineSeconds=1, since a deletion would lose the Job and its annotations. The
    Job's TTL removes it later. The deadline of a suspended Job does not run, and a suspended Job has no
    outcome: it is deleted.

    :param job: the Job as it was just read. If another Job has the name by now, nothing is done
    """
    if job["spec"].get("suspend"):
        delete_job(cluster, job)
    elif not has_reason(job):
        annotate(cluster, job, annotations, {"activeDeadlineSeconds": 1})


def delete_job(cluster: Cluster, job: Json) -> None:
    """Delete the Job that was just read. If another Job has the name by now, that Job stays."""
    cluster.delete("jobs", job["metadata"]["name"], uid_of(job))


def annotate(
    cluster: Cluster, job: Json, annotations: Mapping[str, str], spec: Mapping[str, object] | None = None
) -> None:
    """Add annotations to the Job that was just read, and change fields of its ``spec``.

    The patch has the uid of the Job. The API server refuses it for a Job with another uid, because a uid
    cannot be changed (422). Then our Job is gone, which is no error.
    """
    name, body = job["metadata"]["name"], {"metadata": {"uid": uid_of(job), "annotations": dict(annotations)}}
    try:
        cluster.patch("jobs", name, {**body, **({"spec": dict(spec)} if spec else {})})
    except Exception as error:
        if status_of(error) not in (409, 422):
            raise
        found = cluster.get("jobs", name)
        if found is not None and uid_of(found) == uid_of(job):
            raise
