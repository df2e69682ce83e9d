"""The jobs of a namespace and their pods, as the cluster's own stream of changes keeps them: a thousand jobs
cost the API server two requests a minute, and what changes costs its change.

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
    FAILURE,
    JOB_NAME,
    OUTCOME_IN_LOG,
    QUEUE,
    RECEIPT_KEPT,
    SUCCEEDED,
)

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json

STREAM_S = 45  # the server ends the stream then, and another one goes on: a silent line is noticed
SILENCE_S = STREAM_S + 15.0  # nothing for so long: the other end is not there any more
IDLE_S = 90.0  # nobody has asked for so long: nobody reads on
_ANNOTATIONS = (CANCELLED, FAILURE, OUTCOME_IN_LOG, SUCCEEDED)
_JOB_STATUS = ("active", "terminating", "conditions", "failed", "succeeded", "uncountedTerminatedPods")


class Mirror:
    """What the cluster knows of our jobs, for whoever asks again and again for many of them.

    :param selector: of labels, which jobs and pods carry
    """

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._jobs = Changes(cluster, "jobs", selector, slim_job, _name)
        self._pods = Changes(cluster, "pods", selector, slim_pod, _job_of)

    @property
    def is_read(self) -> bool:
        """Whether it is up to date without a request."""
        return self._jobs.is_read and self._pods.is_read

    def objects(self, names: Iterable[str]) -> tuple[dict[str, Json], dict[str, tuple[Json, ...]]]:
        """Return those of the jobs that are there, by name, and pods by the name of their job.

        :raises Exception: the API cannot be asked
        """
        jobs = {name: job for name, (job,) in self._jobs.current(names).items()}
        return jobs, self._pods.current(jobs)

    def changed(self) -> set[str]:
        """Return the names of the jobs of which a look would find something new since the last call."""
        return self._jobs.changed() | self._pods.changed()


class Changes:
    """The objects of one kind. A thread reads their changes for as long as somebody asks for them.

    It ends with whatever ends its stream: then the next question lists all of them again, and meets the error
    of an API that cannot be reached; an old state is never taken for the present one.
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
        self._beginning = threading.Lock()
        self._reader: threading.Thread | None = None
        self._asked_at = 0.0

    @property
    def is_read(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def changed(self) -> set[str]:
        """Return the groups whose objects have changed since the last call; it counts as no question."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def current(self, groups: Iterable[str]) -> dict[str, tuple[Json, ...]]:
        """Return the objects of those groups that have any, each with what is needed of it."""
        self._asked_at = time.monotonic()
        with self._beginning:  # two readers would undo each other's changes
            if not self.is_read:
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
            while time.monotonic() - self._asked_at < IDLE_S:
                query = {
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "labelSelector": self._selector,
                    "resourceVersion": self._version,
                    "timeoutSeconds": str(STREAM_S),
                }
                path = self._cluster.path(self._kind)
                stream = self._cluster.open("GET", path, query=query, timeout_s=(5.0, SILENCE_S))
                try:
                    if not all(self._take(json.loads(line)) for line in stream if line.strip()):
                        return
                finally:
                    stream.close()
        except Exception:  # noqa: BLE001, RUF100 - whoever asks next meets it, if it lasts
            return

    def _take(self, event: Json) -> bool:
        """Keep a change; return whether the stream can go on."""
        change, found = event["type"], event["object"]
        if change == "ERROR":  # 410: so long ago that the server has forgotten what changed since
            return False
        self._version = found["metadata"]["resourceVersion"]
        if change != "BOOKMARK":
            self._put(found, is_there=change != "DELETED")
        return True

    def _put(self, found: Json, is_there: bool) -> None:
        name, group = found["metadata"]["name"], self._group(found)
        before = self._groups.get(group, ())
        others = (one for one in before if one["metadata"]["name"] != name)
        members = (*others, self._slim(found)) if is_there else tuple(others)
        if members == before:  # it is about what nobody here reads
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
    """Return what a look at the state needs of a Job: ten thousand of them stay in memory."""
    metadata, status = _slim_metadata(job), job.get("status", {})
    given = job["metadata"].get("annotations") or {}
    metadata["annotations"] = {name: given[name] for name in _ANNOTATIONS if name in given}
    if RECEIPT_KEPT in given:
        metadata["annotations"][RECEIPT_KEPT] = ""  # whoever reads the outcome asks for all of the Job
    if queue := (job["metadata"].get("labels") or {}).get(QUEUE):
        metadata["labels"] = {QUEUE: queue}
    return {
        "metadata": metadata,
        "spec": {"suspend": job["spec"].get("suspend", False)},
        "status": {name: status[name] for name in _JOB_STATUS if name in status},
    }


def slim_pod(pod: Json) -> Json:
    """Return what a look at the state needs of a pod."""
    status = pod.get("status", {})
    kept = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
    return {
        "metadata": _slim_metadata(pod),
        "status": {name: status[name] for name in kept if name in status},
    }


def _slim_metadata(found: Json) -> Json:
    kept = ("name", "uid", "creationTimestamp", "deletionTimestamp")
    metadata = found["metadata"]
    return {name: metadata[name] for name in kept if name in metadata}
