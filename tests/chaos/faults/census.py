"""Every job and pod of ours that was ever on the cluster, read from its watch streams."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise

from airflow_stepop.hooks.kubernetes.cluster import Cluster
from airflow_stepop.hooks.kubernetes.job_states import selector
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME, MANAGED
from airflow_stepop.hooks.kubernetes.objects import STEP
from airflow_stepop.hooks.kubernetes.pods import seconds

PATHS = {"jobs": "/apis/batch/v1/jobs", "pods": "/api/v1/pods", "secrets": "/api/v1/secrets"}
STREAM_S = 30


@dataclass
class Seen:
    """One object as last seen, and ``gone_at``, when it was found to be gone."""

    found: dict
    gone_at: float | None = None
    times: tuple[float | None, float | None] = field(default=(None, None))

    def update(self, found):
        self.found = found
        for container in found.get("status", {}).get("containerStatuses") or ():
            if container["name"] == STEP:
                state = container.get("state") or {}
                run = state.get("terminated") or state.get("running") or {}
                began, ended = run.get("startedAt"), run.get("finishedAt")
                if began:
                    self.times = seconds(began), seconds(ended) if ended else None

    @property
    def labels(self):
        return self.found["metadata"]["labels"]

    @property
    def is_running(self):
        return self.gone_at is None and self.times[0] is not None and self.times[1] is None

    def end(self):
        return self.times[1] or self.gone_at or time.time()


class Census:
    """Watches jobs and pods of every namespace until it is closed.

    :param client: an API client that may see all of them
    """

    def __init__(self, client) -> None:
        self.cluster = Cluster(client, "default")
        self._seen: dict[str, dict[str, Seen]] = {"jobs": {}, "pods": {}}
        self._is_closed = False
        for kind in self._seen:
            threading.Thread(target=self._follow, args=(kind,), daemon=True).start()

    def close(self):
        self._is_closed = True

    def _follow(self, kind):
        query = {"labelSelector": selector(MANAGED)}
        while not self._is_closed:
            try:
                page = self.cluster.request("GET", PATHS[kind], query=query)
                there = {one["metadata"]["uid"] for one in page["items"]}
                for one in page["items"]:
                    self._saw(kind, one)
                for uid, seen in list(self._seen[kind].items()):
                    if uid not in there and seen.gone_at is None:
                        seen.gone_at = time.time()
                more = {"watch": "true", "timeoutSeconds": str(STREAM_S)}
                more["resourceVersion"] = page["metadata"]["resourceVersion"]
                stream = self.cluster.open(
                    "GET", PATHS[kind], query={**query, **more}, timeout_s=(5, STREAM_S + 5)
                )
                with closing(stream):
                    for line in stream:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        self._saw(kind, event["object"], is_gone=event["type"] == "DELETED")
            except Exception:
                time.sleep(0.3)

    def _saw(self, kind, found, is_gone=False):
        seen = self._seen[kind].setdefault(found["metadata"]["uid"], Seen(found))
        seen.update(found)
        if is_gone:
            seen.gone_at = time.time()

    def _of(self, kind, run):
        return [
            one for one in list(self._seen[kind].values()) if one.labels.get("airflow-stepop/run-id") == run
        ]

    def running(self, run):
        """Return the pods whose step is running."""
        return [pod.found for pod in self._of("pods", run) if pod.is_running]

    def there(self, run):
        """Return the pods that still exist, in whatever state."""
        return [pod.found for pod in self._of("pods", run) if pod.gone_at is None]

    def refused(self, run):
        """Return the map indexes whose pods a node refused."""
        pods = self._of("pods", run)
        return {
            int(pod.labels["airflow-stepop/map-index"])
            for pod in pods
            if pod.found["status"]["phase"] == "Failed" and not pod.times[0]
        }

    def jobs(self, run):
        return [job.found for job in self._of("jobs", run)]

    def generations(self, run):
        """Return the number of jobs per map index. A submit that is repeated uses the same name."""
        names = defaultdict(set)
        for job in self._of("jobs", run):
            names[int(job.labels["airflow-stepop/map-index"])].add(job.found["metadata"]["name"])
        return {number: len(jobs) for number, jobs in names.items()}

    def overlaps(self, run):
        """Return the pairs of one task instance's pods that ran at the same time."""
        by_index = defaultdict(list)
        for pod in self._of("pods", run):
            if pod.times[0] is not None:
                by_index[pod.labels["airflow-stepop/map-index"]].append(pod)
        found = []
        for pods in by_index.values():
            pods.sort(key=lambda pod: pod.times[0])
            found += [
                (one.labels[JOB_NAME], other.labels[JOB_NAME])
                for one, other in pairwise(pods)
                if other.times[0] < one.end()
            ]
        return found

    def left(self, run):
        """Return the jobs and pods of the run that are on the cluster now."""
        label = f"{selector(MANAGED)},airflow-stepop/run-id={run}"
        return [
            f"{kind}/{one['metadata']['name']}"
            for kind, path in PATHS.items()
            for one in self.cluster.request("GET", path, query={"labelSelector": label})["items"]
        ]
