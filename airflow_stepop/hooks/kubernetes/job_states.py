"""How the jobs of one namespace stand: a few are asked for by name, many are watched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_stepop.hooks.kubernetes import startup_failures
from airflow_stepop.hooks.kubernetes import status as job_status
from airflow_stepop.hooks.kubernetes.events import FEW, Warned, Warnings
from airflow_stepop.hooks.kubernetes.informer import Mirror
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME, MANAGED
from airflow_stepop.hooks.kubernetes.pods import newest
from airflow_stepop.job import JobState, JobStatus

if TYPE_CHECKING:
    from airflow_stepop.failure import Failure
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json

NAMES = 200  # that the address of one request has room for


@dataclass(frozen=True)
class Look:
    """One look at a job.

    :param failure: why it can never start, although the cluster goes on trying
    """

    job: Json | None
    pods: Sequence[Json]
    status: JobStatus
    failure: Failure | None = None


class States:
    """The jobs and pods of one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._mirror = Mirror(cluster, selector(MANAGED))
        self._warnings = Warnings(cluster)
        self._held_up: set[str] = set()  # those of which the warnings may tell more

    @property
    def is_watched(self) -> bool:
        """Whether a look costs no request."""
        return self._mirror.is_read

    def changed(self) -> set[str]:
        """Return the names of the jobs that may stand otherwise than at the last call."""
        changed = self._mirror.changed()
        if self._warnings.may_be_new:
            changed |= self._held_up
            self._held_up = set()
        return changed

    def looks(self, names: Sequence[str]) -> Mapping[str, Look]:
        """Return how each job stands, by its name."""
        jobs, pods = self._of_one_time(*self._objects(names))
        found = {name: _look(jobs.get(name), pods.get(name, ())) for name in names}
        waiting = {name: of for name, look in found.items() if (of := _waiting(look)) is not None}
        self._held_up |= waiting.keys()
        warned = self._warnings.of(set(waiting.values())) if waiting else {}
        for name, of in waiting.items():
            found[name] = _with_warnings(found[name], warned.get(of, ()))
        return found

    def pod_of(self, name: str) -> Json | None:
        """Return the newest pod of a job."""
        if self._mirror.is_read:
            _, pods = self._of_one_time(*self._mirror.objects([name]))
            if name in pods:
                return newest(pods[name])
        return newest(self._pods_of([name]).get(name, ()))

    def exactly(self, name: str) -> tuple[Json | None, Sequence[Json]]:
        """Return a job and its pods with all that the cluster has of them."""
        job = self._cluster.get("jobs", name)
        return job, self._pods_of([name]).get(name, ()) if job is not None else ()

    def status_now(self, name: str) -> JobStatus:
        """Return how a job stands by the cluster's own word, and by none that was heard before."""
        jobs, pods = self._of_one_time(*self._ask([name]))
        return job_status.status_of(jobs.get(name), pods.get(name, ()))

    def _of_one_time(
        self, jobs: Mapping[str, Json], pods: Mapping[str, Sequence[Json]]
    ) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        """Ask again for what is older than the other: jobs and pods come in two streams, or two answers.

        A job with a pod that is not there any more would seem never to have begun, which may be too late by
        now. A pod that still runs although its job is over would have no outcome, and half a log.
        """
        old_jobs = [name for name, job in jobs.items() if not pods.get(name) and job_status.has_made_pod(job)]
        asked = {name: self._cluster.get("jobs", name) for name in old_jobs}
        old_pods = [
            name
            for name, job in jobs.items()
            if job_status.is_over(job) and job_status.may_run(newest(pods.get(name, ())))
        ]
        found = {name: job for name, job in {**jobs, **asked}.items() if job is not None}
        return found, {**pods, **dict.fromkeys(old_pods, ()), **self._pods_of(old_pods)}

    def _objects(self, names: Sequence[str]) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        if len(names) <= FEW and not self._mirror.is_read:
            return self._ask(names)
        jobs, pods = self._mirror.objects(names)
        # Of these it may not have heard yet: nothing is gone before it was asked for by its name
        missing = [name for name in names if name not in jobs]
        if not missing:
            return jobs, pods
        own_jobs, own_pods = self._ask(missing)
        return {**jobs, **own_jobs}, {**pods, **own_pods}

    def _ask(self, names: Sequence[str]) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        asked = {name: self._cluster.get("jobs", name) for name in names}
        jobs = {name: job for name, job in asked.items() if job is not None}
        return jobs, self._pods_of(names)  # those of a job that was deleted may go on for a while, too

    def _pods_of(self, names: Sequence[str]) -> Mapping[str, Sequence[Json]]:
        found: dict[str, list[Json]] = defaultdict(list)
        for first in range(0, len(names), NAMES):
            wanted = f"{JOB_NAME} in ({','.join(names[first : first + NAMES])})"
            for pod in self._cluster.list("pods", labelSelector=wanted):
                found[pod["metadata"]["labels"].get(JOB_NAME, "")].append(pod)
        return found


def selector(labels: Mapping[str, str]) -> str:
    """Return labels as the API wants to be asked for them."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _look(job: Json | None, pods: Sequence[Json]) -> Look:
    return Look(job, pods, job_status.status_of(job, pods))


def _waiting(look: Look) -> str | None:
    """Return the object whose warnings may say why a job does not begin; ``None`` when all is well."""
    if look.job is None or look.status.state is not JobState.PENDING or look.job["spec"].get("suspend"):
        return None
    pod = newest(look.pods)
    if pod is None:
        return str(look.job["metadata"]["name"])
    return str(pod["metadata"]["name"]) if startup_failures.is_held_up(pod) else None


def _with_warnings(look: Look, warned: Sequence[Warned]) -> Look:
    pod = newest(look.pods)
    if pod is None:
        failure, word = startup_failures.refusal(warned)
    else:
        failure, word = startup_failures.stuck_failure(pod, warned), startup_failures.mount_trouble(warned)
    status = replace(look.status, native=word) if word else look.status
    return replace(look, status=status, failure=failure)
