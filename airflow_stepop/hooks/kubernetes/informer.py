"""Keeps the Jobs and pods of a namespace up to date with watches, like an informer of client-go.

:class:`~airflow_stepop.hooks.kubernetes.job_states.JobStates` uses :class:`JobInformer`. The two watches cost
the API server about two requests a minute and one message per change, independent of the number of jobs.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from airflow_stepop.hooks.kubernetes.manifests import (
    CANCELLED,
    END,
    FAILURE,
    JOB_NAME,
    NONCE,
    OUTCOME_IN_LOG,
    PRESERVED_RECEIPT,
    QUEUE,
    SUCCEEDED,
)

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json

WATCH_S = 45  # the server ends a watch after this time, and the reader opens the next one
SILENCE_S = WATCH_S + 15.0  # a connection that was silent for this long counts as dead
IDLE_S = 90.0  # the reader stops when no caller has read for this long
_ANNOTATIONS = (CANCELLED, END, FAILURE, OUTCOME_IN_LOG, SUCCEEDED)
_CONTAINERS = ("initContainers", "containers")
_JOB_STATUS = ("active", "terminating", "conditions", "failed", "succeeded", "uncountedTerminatedPods")


class JobInformer:
    """The Jobs of one namespace and their pods, for a caller that polls many jobs.

    :param selector: label selector of both Jobs and pods
    """

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._jobs = Reflector(cluster, "jobs", selector, slim_job, _name)
        self._pods = Reflector(cluster, "pods", selector, slim_pod, _job_of)

    @property
    def is_watching(self) -> bool:
        """Whether both watches run, so that :meth:`objects` needs no request."""
        return self._jobs.is_watching and self._pods.is_watching

    def objects(self, names: Iterable[str]) -> tuple[dict[str, Json], dict[str, tuple[Json, ...]]]:
        """Return Jobs by name, and pods by the name of their Job. Jobs that do not exist are left out.

        :raises Exception: the objects had to be listed, and the API refused or could not be reached
        """
        jobs = {name: job for name, (job,) in self._jobs.current(names).items()}
        return jobs, self._pods.current(jobs)

    def changed_jobs(self) -> set[str]:
        """Return the names of the jobs that have changed since the last call."""
        return self._jobs.changed_groups() | self._pods.changed_groups()


class Reflector:
    """Lists the objects of one kind, then watches them in a thread, as a reflector of client-go does.

    The thread ends when the watch breaks, or when no caller has asked for :data:`IDLE_S`. The next call of
    :meth:`current` then lists all objects again, and raises if the API cannot be reached. So a stale state is
    never returned as the present one.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        selector: str,
        slim: Callable[[Json], Json],
        group: Callable[[Json], str],
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._selector = selector
        self._slim = slim
        self._group = group
        self._groups: dict[str, tuple[Json, ...]] = {}
        self._changed: set[str] = set()
        self._version = ""
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._reader: threading.Thread | None = None
        self._last_used_at = 0.0

    @property
    def is_watching(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def changed_groups(self) -> set[str]:
        """Return the groups that have changed since the last call. Does not keep the thread alive."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def current(self, groups: Iterable[str]) -> dict[str, tuple[Json, ...]]:
        """Return the objects of each group that has any, without the fields that nobody here reads.

        :raises Exception: the objects had to be listed, and the API refused or could not be reached
        """
        self._last_used_at = time.monotonic()
        with self._starting:  # two readers would overwrite each other's changes
            if not self.is_watching:
                self._list()
                self._reader = threading.Thread(target=self._read, name=f"stepop-{self._kind}", daemon=True)
                self._reader.start()
        with self._lock:
            return {group: self._groups[group] for group in groups if group in self._groups}

    def _list(self) -> None:
        version, found = self._cluster.snapshot(self._kind, labelSelector=self._selector)
        groups: dict[str, tuple[Json, ...]] = {}
        for one in found:
            group = self._group(one)
            groups[group] = (*groups.get(group, ()), self._slim(one))
        before = self._groups
        changed = {name for name in groups.keys() | before.keys() if groups.get(name) != before.get(name)}
        with self._lock:
            self._version, self._groups = version, groups
            self._changed |= changed

    def _read(self) -> None:
        try:
            while time.monotonic() - self._last_used_at < IDLE_S:
                query = {
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "labelSelector": self._selector,
                    "resourceVersion": self._version,
                    "timeoutSeconds": str(WATCH_S),
                }
                path = self._cluster.path(self._kind)
                stream = self._cluster.open("GET", path, query=query, timeout_s=(5.0, SILENCE_S))
                try:
                    if not all(self._apply(json.loads(line)) for line in stream if line.strip()):
                        return
                finally:
                    stream.close()
        except Exception:  # noqa: BLE001, RUF100 - the next caller lists again, and gets the error if the error lasts
            return

    def _apply(self, event: Json) -> bool:
        """Apply one event of the watch; return whether the watch can continue."""
        change, found = event["type"], event["object"]
        if change == "ERROR":  # usually 410: the server no longer has the changes since this version
            return False
        self._version = found["metadata"]["resourceVersion"]
        if change != "BOOKMARK":
            self._store(found, is_there=change != "DELETED")
        return True

    def _store(self, found: Json, is_there: bool) -> None:
        name, group = found["metadata"]["name"], self._group(found)
        before = self._groups.get(group, ())
        others = (one for one in before if one["metadata"]["name"] != name)
        members = (*others, self._slim(found)) if is_there else tuple(others)
        if members == before:  # only fields changed that this backend does not read
            return
        with self._lock:
            self._changed.add(group)
            if members:
                self._groups[group] = members
            else:
                self._groups.pop(group, None)


def _name(found: Json) -> str:
    return str(found["metadata"]["name"])


def _job_of(pod: Json) -> str:
    return str(pod["metadata"]["labels"].get(JOB_NAME, ""))


def slim_job(job: Json) -> Json:
    """Return only the fields of a Job that its status needs, so that ten thousand Jobs fit in memory."""
    metadata, status = _slim_metadata(job), job.get("status", {})
    annotations = job["metadata"].get("annotations") or {}
    metadata["annotations"] = {name: annotations[name] for name in _ANNOTATIONS if name in annotations}
    if PRESERVED_RECEIPT in annotations:
        metadata["annotations"][PRESERVED_RECEIPT] = ""  # a reader of the outcome fetches the whole Job
    labels = job["metadata"].get("labels") or {}
    metadata["labels"] = {name: labels[name] for name in (NONCE, QUEUE) if name in labels}
    return {
        "metadata": metadata,
        "spec": {"suspend": job["spec"].get("suspend", False)},
        "status": {name: status[name] for name in _JOB_STATUS if name in status},
    }


def slim_pod(pod: Json) -> Json:
    """Return only the fields of a pod that the status of its Job needs."""
    status = pod.get("status", {})
    kept = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
    spec = pod.get("spec", {})
    owners = [{"uid": one["uid"]} for one in pod["metadata"].get("ownerReferences") or ()]
    return {
        "metadata": {**_slim_metadata(pod), **({"ownerReferences": owners[:1]} if owners else {})},
        "spec": {name: [_slim_container(one) for one in spec.get(name) or ()] for name in _CONTAINERS},
        "status": {name: status[name] for name in kept if name in status},
    }


def _slim_container(container: Json) -> Json:
    return {name: container[name] for name in ("name", "image", "restartPolicy") if name in container}


def _slim_metadata(found: Json) -> Json:
    kept = ("name", "uid", "creationTimestamp", "deletionTimestamp")
    metadata = found["metadata"]
    return {name: metadata[name] for name in kept if name in metadata}
