"""The status of a step from its Job and its pod; ``failures.py`` says why a step failed.

Sources: https://kubernetes.io/docs/concepts/workloads/controllers/job/ and
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain

from airflow_stepop.failure import Failure
from airflow_stepop.hooks.kubernetes.failures import DISRUPTIONS, disruption, failure_of
from airflow_stepop.hooks.kubernetes.manifests import CANCELLED, FAILURE, PRESERVED_RECEIPT, QUEUE, SUCCEEDED
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import (
    begun_at,
    condition_of,
    containers_of,
    has_begun,
    has_ended,
    is_true,
    newest,
    run_of,
    seconds_of,
)
from airflow_stepop.job import JobState, JobStatus

# what the scheduler finds no node for -> what of a task asks for it
# https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/
RESOURCES: Mapping[str, Sequence[str]] = {
    "cpu": ("cpu_count",),
    "memory": ("memory",),
    "ephemeral-storage": ("disk",),
}
OTHER_RESOURCE = ("gpu_count", "gpu_resource")
PLACEMENT: Mapping[str, Sequence[str]] = {
    "node affinity/selector": ("gpu_type", "spot", "node_selector", "affinity"),
    "pod affinity rules": ("affinity",),
    "anti-affinity rules": ("affinity",),
    "untolerated taint": ("tolerations",),
    "topology spread constraints": ("topology_spread_constraints",),
    "persistentvolumeclaim": ("volumes",),
    "volume node affinity": ("volumes",),
    "free ports": ("host_network",),
}


def status_of(job: Json | None, pods: Sequence[Json]) -> JobStatus:
    """Return where the step stands.

    :param job: the Job, ``None`` when the cluster knows none
    :param pods: its pods
    """
    pod = newest(pods)
    if job is None:
        return _without_job(pod)
    run = run_of(pod)
    failed = condition_of(job, "Failed")
    times = begun_at(run), seconds_of(run.get("finishedAt"))
    if is_true(condition_of(job, "Complete")):
        return JobStatus(JobState.SUCCEEDED, None, "Complete", *times)
    # before Kubernetes 1.31 a Job whose deadline has passed is over earlier than its pod
    if is_true(failed) and not may_run(pod):
        return _failed(job, pod, failed, run)
    return _unfinished(job, pod, run, *times)


def is_over(job: Json) -> bool:
    """Return whether the Job itself says that it has ended."""
    return is_true(condition_of(job, "Complete")) or is_true(condition_of(job, "Failed"))


def has_made_pod(job: Json) -> bool:
    """Return whether the Job says that it has a pod which is not over."""
    status = job.get("status", {})
    return bool(status.get("active") or status.get("terminating"))


def has_reason(job: Json) -> bool:
    """Return whether the Job says why it ends, or has ended."""
    return bool({FAILURE, CANCELLED, SUCCEEDED} & set(job["metadata"].get("annotations") or {}))


def is_outcome_preserved(job: Json) -> bool:
    """Return whether the Job itself has kept how the step ended, so that its pod is not needed any more."""
    return has_reason(job) or PRESERVED_RECEIPT in (job["metadata"].get("annotations") or {})


def _without_job(pod: Json | None) -> JobStatus:
    """Return how a step stands whose Job was deleted: its pod has its grace period, and is there as long as
    its node does not answer.
    """
    if pod is None or not may_run(pod):
        return JobStatus(JobState.GONE)
    state = JobState.RUNNING if has_begun(pod) else JobState.PENDING
    _, trouble = _trouble_of(pod)
    message = f"the job was deleted, and its pod is not over yet. {trouble}".strip(". ")
    return JobStatus(state, None, "JobDeleted", begun_at(run_of(pod)), message=message)


def may_run(pod: Json | None) -> bool:
    """Return whether nobody has said of a pod that it is over."""
    return pod is not None and not has_ended(pod)


def _unfinished(
    job: Json, pod: Json | None, run: Json, started_at: float | None, finished_at: float | None
) -> JobStatus:
    suspension = condition_of(job, "Suspended")
    since = seconds_of(suspension.get("lastTransitionTime"))
    if job["spec"].get("suspend") and (pod is None or is_true(suspension)):
        # Kueue can do that again to one that runs: its pod is being ended
        return JobStatus(
            JobState.PENDING, None, "Suspended", waits_since=since, message=_suspended_message(job)
        )
    if pod is None and _has_counted(job):
        return JobStatus(JobState.RUNNING, None, "Ending")
    if pod is None:
        return JobStatus(JobState.PENDING, None, "Pending", waits_since=since)
    code = run.get("exitCode")
    if code is not None and (code == 0 or has_sidecars(pod)) and not _is_taken(job, pod):
        # the Job hears of it seconds later; or when all containers of the pod are over, which may be never
        state, failure = (JobState.FAILED, failure_of(pod, {})) if code else (JobState.SUCCEEDED, None)
        reason = run.get("reason", "Error") if code else "Completed"
        return JobStatus(state, failure, reason, started_at, finished_at)
    reason, message = _trouble_of(pod)
    if started_at is not None or run:
        reason = reason or pod.get("status", {}).get("phase", "")
        return JobStatus(JobState.RUNNING, None, reason, started_at, message=message)
    if not reason:
        reason, message = _waiting_for(pod)
    return JobStatus(JobState.PENDING, None, reason, waits_since=since, message=message)


def _has_counted(job: Json) -> bool:
    """Return whether a pod of the job is over and gone, of which its conditions do not tell yet."""
    status = job.get("status", {})
    counted = status.get("uncountedTerminatedPods") or {}
    ends = any(is_true(condition_of(job, kind)) for kind in ("FailureTarget", "SuccessCriteriaMet"))
    return bool(ends or status.get("failed") or status.get("succeeded") or any(counted.values()))


def _suspended_message(job: Json) -> str:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    return f"Kueue has not let it in yet (queue {queue!r})" if queue else ""


def has_sidecars(pod: Json | None) -> bool:
    """Return whether other containers than the step's still run, which the pod does not end by itself."""
    containers = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return any(one["name"] != STEP and "running" in (one.get("state") or {}) for one in containers)


def _trouble_of(pod: Json) -> tuple[str, str]:
    """Return reason and message of why a pod may never be heard of again; both empty when all is well.

    The cluster cannot know whether a pod goes on whose node is silent, and neither can we: no other one is
    begun before the node has confirmed its end, or is removed.
    """
    is_ended = "deletionTimestamp" in pod["metadata"]
    ready = condition_of(pod, "Ready")
    if ready.get("status") == "False" and not ready.get("reason"):  # a kubelet always gives one
        then = "; its pod is to be removed, once the node is back or is deleted" if is_ended else ""
        return "NodeNotReady", f"its node does not answer since {ready['lastTransitionTime']}{then}"
    taken = disruption(pod) if is_ended else ""
    return ("Terminating", DISRUPTIONS.get(taken, taken)) if taken else ("", "")


def _is_taken(job: Json, pod: Json) -> bool:
    """Return whether somebody ends the pod, so that how its container ended does not count."""
    is_ended = "deletionTimestamp" in pod["metadata"] or bool(pod.get("status", {}).get("reason"))
    return is_ended or has_reason(job)


def _failed(job: Json, pod: Json | None, failed: Json, run: Json) -> JobStatus:
    times = begun_at(run), seconds_of(run.get("finishedAt") or failed.get("lastTransitionTime"))
    annotations = job["metadata"].get("annotations") or {}
    reason = failed.get("reason", "Failed")
    if SUCCEEDED in annotations:
        return JobStatus(JobState.SUCCEEDED, None, "Completed", *times)
    if FAILURE in annotations:
        return JobStatus(JobState.FAILED, Failure.from_json(json.loads(annotations[FAILURE])), reason, *times)
    if CANCELLED in annotations:
        return JobStatus(JobState.CANCELLED, None, "cancelled", *times)
    is_there = pod is not None and "deletionTimestamp" not in pod["metadata"]
    if PRESERVED_RECEIPT in annotations and not is_there:  # its pod had told all
        return JobStatus(JobState.FAILED, None, reason, *times)
    return JobStatus(JobState.FAILED, failure_of(pod, failed), reason, *times)


def _waiting_for(pod: Json) -> tuple[str, str]:
    """Return reason and message of what a pod waits for."""
    placed = condition_of(pod, "PodScheduled")
    if placed.get("status") == "False":
        message = placed.get("message", "")
        arguments = _arguments_behind(message)
        return placed.get("reason", ""), f"{message} (see {', '.join(arguments)})" if arguments else message
    for _, container in containers_of(pod):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", "")), ""
    return str(pod.get("status", {}).get("phase", "")), ""


def _arguments_behind(message: str) -> Sequence[str]:
    """Return the arguments of a task that ask for what the scheduler finds on no node."""
    missing = re.findall(r"Insufficient ([\w./-]*\w)", message)
    asked = [RESOURCES.get(name, OTHER_RESOURCE) for name in missing]
    asked += [options for words, options in PLACEMENT.items() if words in message.lower()]
    return list(dict.fromkeys(chain.from_iterable(asked)))
