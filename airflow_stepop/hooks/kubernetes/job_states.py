"""The states of the jobs of one namespace. ``KubernetesStepHook`` reads them here.

A few jobs are read by name. For more than :data:`~airflow_stepop.hooks.kubernetes.events.FEW` jobs an
informer with two watches is started.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_stepop.hooks.kubernetes import exec_errors, startup_failures
from airflow_stepop.hooks.kubernetes import status as job_status
from airflow_stepop.hooks.kubernetes.events import FEW, WarningEvent, WarningEvents
from airflow_stepop.hooks.kubernetes.informer import JobInformer
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME, MANAGED
from airflow_stepop.hooks.kubernetes.own_objects import own_objects
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.pods import looping_sidecar, newest, run_of
from airflow_stepop.job import JobState, JobStatus

if TYPE_CHECKING:
    from airflow_stepop.failure import Failure
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json
    from airflow_stepop.job import JobHandle

LAST_LINES = 10  # of a sidecar's log, in a failure
NAMES = 200  # job names in one label selector: the URL of a request has a limit


@dataclass(frozen=True)
class JobView:
    """A Job, its pods and its status at one moment.

    :param job: ``None``: there is no such Job
    :param failure: why the job can never start, although the cluster continues to retry
    """

    job: Json | None
    pods: Sequence[Json]
    status: JobStatus
    failure: Failure | None = None


class JobStates:
    """The jobs and pods of one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._informer = JobInformer(cluster, selector(MANAGED))
        self._warning_events = WarningEvents(cluster)
        self._blocked: set[str] = set()  # pending jobs whose warning events may give the reason

    @property
    def is_watched(self) -> bool:
        """Whether watches run, so that a view needs no request."""
        return self._informer.is_watching

    def changed_jobs(self) -> set[str]:
        """Return the names of the jobs whose status may have changed since the last call."""
        changed = self._informer.changed_jobs()
        if self._warning_events.may_be_new:
            changed |= self._blocked
            self._blocked = set()
        return changed

    def views(self, handles: Sequence[JobHandle]) -> Mapping[str, JobView]:
        """Return the view of each job, by its name."""
        jobs, pods = self._consistent(*self._objects([handle.id for handle in handles]))
        found = {one.id: _view(*own_objects(one, jobs.get(one.id), pods.get(one.id, ()))) for one in handles}
        blocked = {name: of for name, view in found.items() if (of := _blocked_by(view)) is not None}
        self._blocked |= blocked.keys()
        events = self._warning_events.of(set(blocked.values())) if blocked else {}
        for name, of in blocked.items():
            found[name] = self._explained(found[name], events.get(of, ()))
        return {name: self._with_exec_error(name, view) for name, view in found.items()}

    def pod_of(self, handle: JobHandle) -> Json | None:
        """Return the newest pod of a job."""
        name = handle.id
        if self._informer.is_watching:
            jobs, pods = self._consistent(*self._informer.objects([name]))
            _, own = own_objects(handle, jobs.get(name), pods.get(name, ()))
            if own:
                return newest(own)
        return newest(own_objects(handle, None, self._pods_of([name]).get(name, ()))[1])

    def exactly(self, handle: JobHandle) -> tuple[Json | None, Sequence[Json]]:
        """Return a Job and its pods with all fields, read from the API server now."""
        job, _ = own_objects(handle, self._cluster.get("jobs", handle.id), ())
        return own_objects(handle, job, self._pods_of([handle.id]).get(handle.id, ())) if job else (None, ())

    def status_now(self, handle: JobHandle) -> JobStatus:
        """Return the status of a job, read from the API server now and not from a watch."""
        name = handle.id
        jobs, pods = self._consistent(*self._read([name]))
        view = _view(*own_objects(handle, jobs.get(name), pods.get(name, ())))
        if (of := _blocked_by(view)) is not None:
            view = _with_events(view, self._warning_events.now(of))
        return self._with_exec_error(name, view).status

    def _explained(self, view: JobView, events: Sequence[WarningEvent]) -> JobView:
        """Add what warning events say. The failure of a sidecar gets the last lines of its log."""
        view = _with_events(view, events)
        pod = newest(view.pods)
        if view.failure is None or looping_sidecar(pod) is None:
            return view
        lines = PodLog(self._cluster, pod).last_texts(LAST_LINES)
        return replace(view, failure=replace(view.failure, log_tail=tuple(lines)))

    def _with_exec_error(self, name: str, view: JobView) -> JobView:
        """Add the failure of a pod whose process could not be executed. Only its log says so."""
        pod = newest(view.pods)
        if view.status.failure is not None or not exec_errors.may_be_one(pod):
            return view
        lines = PodLog(self._cluster, pod).last_texts(2)
        if not exec_errors.is_one(lines):
            return view
        job = self._cluster.get("jobs", name)
        failure = exec_errors.failure_of(lines[0], job or {}, run_of(pod).get("exitCode"))
        return replace(view, status=replace(view.status, failure=failure))

    def _consistent(
        self, jobs: Mapping[str, Json], pods: Mapping[str, Sequence[Json]]
    ) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        """Re-read the jobs or pods that lag behind, as the two come from two watches or two requests.

        Without the newest pods, a job would seem never to have begun. With an old pod of a finished job, the
        outcome and the end of the log would be missing.
        """
        old_jobs = [name for name, job in jobs.items() if not pods.get(name) and job_status.has_made_pod(job)]
        read = {name: self._cluster.get("jobs", name) for name in old_jobs}
        old_pods = [
            name
            for name, job in jobs.items()
            if job_status.is_over(job) and job_status.may_run(newest(pods.get(name, ())))
        ]
        found = {name: job for name, job in {**jobs, **read}.items() if job is not None}
        return found, {**pods, **dict.fromkeys(old_pods, ()), **self._pods_of(old_pods)}

    def _objects(self, names: Sequence[str]) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        if len(names) <= FEW and not self._informer.is_watching:
            return self._read(names)
        jobs, pods = self._informer.objects(names)
        # The watch may lag: no job counts as GONE before a read by its name
        missing = [name for name in names if name not in jobs]
        if not missing:
            return jobs, pods
        own_jobs, own_pods = self._read(missing)
        return {**jobs, **own_jobs}, {**pods, **own_pods}

    def _read(self, names: Sequence[str]) -> tuple[Mapping[str, Json], Mapping[str, Sequence[Json]]]:
        read = {name: self._cluster.get("jobs", name) for name in names}
        jobs = {name: job for name, job in read.items() if job is not None}
        return jobs, self._pods_of(names)  # also for deleted Jobs: their pods may still run

    def _pods_of(self, names: Sequence[str]) -> Mapping[str, Sequence[Json]]:
        found: dict[str, list[Json]] = defaultdict(list)
        for first in range(0, len(names), NAMES):
            wanted = f"{JOB_NAME} in ({','.join(names[first : first + NAMES])})"
            for pod in self._cluster.list("pods", labelSelector=wanted):
                found[pod["metadata"]["labels"].get(JOB_NAME, "")].append(pod)
        return found


def selector(labels: Mapping[str, str]) -> str:
    """Return labels as the text of a label selector."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _view(job: Json | None, pods: Sequence[Json]) -> JobView:
    return JobView(job, pods, job_status.status_of(job, pods))


def _blocked_by(view: JobView) -> str | None:
    """Return the name of the Job or pod whose events may say why a job does not begin, else ``None``."""
    if view.job is None or view.status.state is not JobState.PENDING or view.job["spec"].get("suspend"):
        return None
    pod = newest(view.pods)
    if pod is None:
        return str(view.job["metadata"]["name"])
    return str(pod["metadata"]["name"]) if startup_failures.is_blocked(pod) else None


def _with_events(view: JobView, events: Sequence[WarningEvent]) -> JobView:
    pod = newest(view.pods)
    if pod is None:
        failure, reason, message = startup_failures.refusal(events)
    else:
        failure = startup_failures.startup_failure(pod, events)
        reason, message = startup_failures.mount_error(pod, events)
    status = replace(view.status, native=reason, message=message) if message else view.status
    return replace(view, status=status, failure=failure)
