"""Derives the status of a step from its Job and its pods. ``hook.py`` and ``job_states.py`` call it.

The functions are pure. ``failures.py`` classifies the failure of a step.

Sources: https://kubernetes.io/docs/concepts/workloads/controllers/job/ and
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.failure import Failure
from airflow_stepop.hooks.kubernetes.failures import DISRUPTIONS, disruption, failure_of
from airflow_stepop.hooks.kubernetes.manifests import (
    CANCELLED,
    END,
    FAILURE,
    PRESERVED_RECEIPT,
    QUEUE,
    SUCCEEDED,
)
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

# resource of which no node has enough, in the scheduler's message -> arguments of a task that ask for it
# https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/
RESOURCES: Mapping[str, Sequence[str]] = {
    "cpu": ("cpu_count",),
    "memory": ("memory",),
    "ephemeral-storage": ("disk",),
}
OTHER_RESOURCE = ("gpu_count", "gpu_resource")
# rule that no node fulfils, in the scheduler's message -> arguments of a task that set the rule
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
    """Return the status of a step.

    A terminal state stays, also while the pod is removed and after that: ``preserve_outcome`` has written the
    end of the job into its annotations.

    :param job: the Job; ``None`` when it does not exist
    :param pods: the pods of the Job
    """
    pod = newest(pods)
    if job is None:
        return _without_job(pod)
    status, end = _status_now(job, pod), preserved_end(job)
    if end is None or (status.state is end.state and _is_there(pod)):
        return status
    return end


def preserved_end(job: Json) -> JobStatus | None:
    """Return how the job ended, as its annotations have it; ``None`` when they do not, or are damaged."""
    text = (job["metadata"].get("annotations") or {}).get(END)
    try:
        return JobStatus.from_json(parsed_json(text, END)) if text is not None else None
    except IntegrityError:
        return None


def _preserved_failure(annotations: Mapping[str, str]) -> Failure | None:
    """Return why the hook ended the job, as its annotations have it; ``None`` if they are damaged."""
    try:
        return Failure.from_json(parsed_json(annotations[FAILURE], FAILURE))
    except IntegrityError:
        return None


def _status_now(job: Json, pod: Json | None) -> JobStatus:
    run = run_of(pod)
    failed = condition_of(job, "Failed")
    times = begun_at(run), seconds_of(run.get("finishedAt"))
    if is_true(condition_of(job, "Complete")):
        return JobStatus(JobState.SUCCEEDED, None, "Complete", *times)
    # Before Kubernetes 1.31, a Job with a passed deadline is marked as failed while its pod still runs
    if is_true(failed) and not may_run(pod):
        return _failed(job, pod, failed, run)
    return _unfinished(job, pod, run, *times)


def is_over(job: Json) -> bool:
    """Return whether the Job has the condition Complete or Failed."""
    return is_true(condition_of(job, "Complete")) or is_true(condition_of(job, "Failed"))


def has_made_pod(job: Json) -> bool:
    """Return whether the Job counts a pod that has not ended."""
    status = job.get("status", {})
    return bool(status.get("active") or status.get("terminating"))


def has_reason(job: Json) -> bool:
    """Return whether the Job has an annotation of the hook with the reason for its end."""
    return bool({FAILURE, CANCELLED, SUCCEEDED} & set(job["metadata"].get("annotations") or {}))


def is_outcome_preserved(job: Json) -> bool:
    """Return whether the Job's annotations have the end of the step, so that its pod is not needed."""
    return has_reason(job) or PRESERVED_RECEIPT in (job["metadata"].get("annotations") or {})


def _without_job(pod: Json | None) -> JobStatus:
    """Return the status of a step whose Job was deleted.

    Its pod still exists during the grace period, and for as long as the pod's node does not answer.
    """
    if pod is None or not may_run(pod):
        return JobStatus(JobState.GONE)
    state = JobState.RUNNING if has_begun(pod) else JobState.PENDING
    _, trouble = _trouble_of(pod)
    message = f"the job was deleted, but its pod has not ended yet. {trouble}".strip(". ")
    return JobStatus(state, None, "JobDeleted", begun_at(run_of(pod)), message=message)


def may_run(pod: Json | None) -> bool:
    """Return whether a pod exists that is not reported as ended."""
    return pod is not None and not has_ended(pod)


def _is_there(pod: Json | None) -> bool:
    return pod is not None and "deletionTimestamp" not in pod["metadata"]


def _unfinished(
    job: Json, pod: Json | None, run: Json, started_at: float | None, finished_at: float | None
) -> JobStatus:
    suspension = condition_of(job, "Suspended")
    since = seconds_of(suspension.get("lastTransitionTime"))
    if job["spec"].get("suspend") and (pod is None or is_true(suspension)):
        # Kueue can suspend a running job again. Its pod is then being ended
        return JobStatus(
            JobState.PENDING, None, "Suspended", waits_since=since, message=_suspended_message(job)
        )
    if pod is None and _has_counted(job):
        return JobStatus(JobState.RUNNING, None, "Ending")
    if pod is None:
        return JobStatus(JobState.PENDING, None, "Pending", waits_since=since)
    code = run.get("exitCode")
    if code is not None and (code == 0 or has_sidecars(pod)) and not _is_taken(job, pod):
        # The Job is updated seconds later, or only after all containers of the pod have ended, maybe never
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
    """Return whether a pod of the Job has ended and is gone, before the Job's conditions show the end."""
    status = job.get("status", {})
    counted = status.get("uncountedTerminatedPods") or {}
    ends = any(is_true(condition_of(job, kind)) for kind in ("FailureTarget", "SuccessCriteriaMet"))
    return bool(ends or status.get("failed") or status.get("succeeded") or any(counted.values()))


def _suspended_message(job: Json) -> str:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    return f"Kueue has not admitted the job yet (queue {queue!r})" if queue else ""


def has_sidecars(pod: Json | None) -> bool:
    """Return whether other containers than the step's still run; the pod does not end them by itself."""
    containers = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return any(one["name"] != STEP and "running" in (one.get("state") or {}) for one in containers)


def _trouble_of(pod: Json) -> tuple[str, str]:
    """Return the reason and the message of a pod that is lost or is being removed; both empty otherwise.

    While a node does not answer, nobody can know whether its pod still runs. So no other pod is started
    before the node has confirmed the end of the pod, or is removed from the cluster.
    """
    is_ended = "deletionTimestamp" in pod["metadata"]
    ready = condition_of(pod, "Ready")
    # The condition was set by the node controller, which gives no reason. A kubelet always gives one
    if ready.get("status") == "False" and not ready.get("reason"):
        then = "; its pod will be removed when the node is back or is deleted" if is_ended else ""
        return "NodeNotReady", f"its node has not answered since {ready['lastTransitionTime']}{then}"
    taken = disruption(pod) if is_ended else ""
    return ("Terminating", DISRUPTIONS.get(taken, taken)) if taken else ("", "")


def _is_taken(job: Json, pod: Json) -> bool:
    """Return whether the pod is being ended from outside, so that its exit code does not count."""
    is_ended = "deletionTimestamp" in pod["metadata"] or bool(pod.get("status", {}).get("reason"))
    return is_ended or has_reason(job)


def _failed(job: Json, pod: Json | None, failed: Json, run: Json) -> JobStatus:
    times = begun_at(run), seconds_of(run.get("finishedAt") or failed.get("lastTransitionTime"))
    annotations = job["metadata"].get("annotations") or {}
    reason = failed.get("reason", "Failed")
    if SUCCEEDED in annotations:
        return JobStatus(JobState.SUCCEEDED, None, "Completed", *times)
    if FAILURE in annotations and (failure := _preserved_failure(annotations)) is not None:
        return JobStatus(JobState.FAILED, failure, reason, *times)
    if CANCELLED in annotations:
        return JobStatus(JobState.CANCELLED, None, "cancelled", *times)
    if PRESERVED_RECEIPT in annotations and not _is_there(pod):  # the receipt has the outcome
        return JobStatus(JobState.FAILED, None, reason, *times)
    return JobStatus(JobState.FAILED, failure_of(pod, failed), reason, *times)


def _waiting_for(pod: Json) -> tuple[str, str]:
    """Return the reason and the message of what a pod waits for."""
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
    """Return the arguments of a task that no node can fulfil, by the message of the scheduler."""
    message = re.sub(r'\{[^}]*\}|"[^"]*"', "", message)  # keys of taints and names of objects may be any word
    missing = re.findall(r"Insufficient ([\w./-]*\w)", message)
    asked = [RESOURCES.get(name, OTHER_RESOURCE) for name in missing]
    asked += [options for words, options in PLACEMENT.items() if words in message.lower()]
    return list(dict.fromkeys(chain.from_iterable(asked)))
