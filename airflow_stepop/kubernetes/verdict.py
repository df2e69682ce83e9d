"""What a Job and its pod say about a step: total tables from their words to states and categories.

Sources: https://kubernetes.io/docs/concepts/workloads/controllers/job/ ,
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from airflow_stepop.job import Category, Failure, JobState, JobStatus
from airflow_stepop.kubernetes.manifests import CANCELLED, FAILURE, QUEUE, SUCCEEDED
from airflow_stepop.kubernetes.objects import STEP, Json

# reason of a pod's condition DisruptionTarget, and of a pod itself -> what took it away
DISRUPTIONS: Mapping[str, str] = {
    "PreemptionByScheduler": "a pod of higher priority needed its place",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByTaintManager": "its node was lost or tainted",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node shut down or ran short of something",
    "Evicted": "its node ran short of something",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node shut down",
    "Shutdown": "its node shut down",
    "Terminated": "its node shut down",
    "Preempting": "a pod of higher priority needed its place",
}


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

# why a kubelet does not take a pod that no other node of its kind would take either
# https://github.com/kubernetes/kubernetes/tree/v1.34.0/pkg/kubelet : lifecycle, sysctl, cm/cpumanager
UNSUPPORTED = (
    "AppArmor", "InitContainerRestartPolicyForbidden", "PodLevelResourcesNotSupported", "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch", "SMTAlignmentError", "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
)  # fmt: skip

# reason of a container that could not be started -> its times mean nothing: they are those of the epoch
NEVER_BEGUN = ("StartError", "ContainerCannotRun")


def status_of(job: Json | None, pods: Sequence[Json]) -> JobStatus:
    """Return where the step stands.

    :param job: the Job, ``None`` when the cluster knows none
    :param pods: its pods
    """
    pod = newest(pods)
    if job is None:
        return _without_job(pod)
    run = _run_of(pod)
    conditions = {one["type"]: one for one in job.get("status", {}).get("conditions") or ()}
    times = _begun(run), _seconds(run.get("finishedAt"))
    if _is_true(conditions.get("Complete")):
        return JobStatus(JobState.SUCCEEDED, None, "Complete", *times)
    # before Kubernetes 1.31 a Job whose deadline has passed is over earlier than its pod
    if (failed := conditions.get("Failed")) and _is_true(failed) and not _may_run(pod):
        return _failed(job, pod, failed, run)
    return _unfinished(job, pod, run, *times)


def _without_job(pod: Json | None) -> JobStatus:
    """Return how a step stands whose Job was deleted: its pod has its grace period, and is there as long as
    its node does not answer.
    """
    if pod is None or not _may_run(pod):
        return JobStatus(JobState.GONE)
    state = JobState.RUNNING if has_begun(pod) else JobState.PENDING
    word = f"JobDeleted: the job was deleted, and its pod is not over yet. {_trouble_of(pod)}".strip(". ")
    return JobStatus(state, None, word, _begun(_run_of(pod)))


def _may_run(pod: Json | None) -> bool:
    """Return whether nobody has said of a pod that it is over."""
    return pod is not None and not has_ended(pod)


def _unfinished(
    job: Json, pod: Json | None, run: Json, started_at: float | None, finished_at: float | None
) -> JobStatus:
    is_suspended = job["spec"].get("suspend")
    if pod is None or is_suspended:  # Kueue can do that again to one that runs: its pod is being ended
        return JobStatus(JobState.PENDING, None, _suspended_word(job) if is_suspended else "Pending")
    code = run.get("exitCode")
    if code is not None and (code == 0 or has_company(pod)) and not _is_taken(job, pod):
        # the Job hears of it seconds later; or when all containers of the pod are over, which may be never
        state, failure = (JobState.FAILED, failure_of(pod, {}, run)) if code else (JobState.SUCCEEDED, None)
        word = run.get("reason", "Error") if code else "Completed"
        return JobStatus(state, failure, word, started_at, finished_at)
    trouble = _trouble_of(pod)
    if started_at is not None or run:
        word = trouble or pod.get("status", {}).get("phase", "")
        return JobStatus(JobState.RUNNING, None, word, started_at)
    return JobStatus(JobState.PENDING, None, trouble or _waiting_word(pod))


def _suspended_word(job: Json) -> str:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    return f"Suspended: Kueue has not let it in yet (queue {queue!r})" if queue else "Suspended"


def has_company(pod: Json | None) -> bool:
    """Return whether other containers than the step's still run, which the pod does not end by itself."""
    containers = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return any(one["name"] != STEP and "running" in (one.get("state") or {}) for one in containers)


def _trouble_of(pod: Json) -> str:
    """Return why a pod may never be heard of again; empty when all is well.

    The cluster cannot know whether a pod goes on whose node is silent, and neither can we: no other one is
    begun before the node has confirmed its end, or is removed.
    """
    status = pod.get("status", {})
    is_ended = "deletionTimestamp" in pod["metadata"]
    ready: Json = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    if ready.get("status") == "False" and not ready.get("reason"):  # a kubelet always gives one
        then = "; its pod is to be removed, once the node is back or is deleted" if is_ended else ""
        return f"NodeNotReady: its node does not answer since {ready['lastTransitionTime']}{then}"
    taken = _disruption(status) if is_ended else ""
    return f"Terminating: {DISRUPTIONS.get(taken, taken)}" if taken else ""


def _is_taken(job: Json, pod: Json) -> bool:
    """Return whether somebody ends the pod, so that how its container ended does not count."""
    annotations = job["metadata"].get("annotations") or {}
    is_ended = "deletionTimestamp" in pod["metadata"] or bool(pod.get("status", {}).get("reason"))
    return is_ended or bool({FAILURE, CANCELLED, SUCCEEDED} & set(annotations))


def _failed(job: Json, pod: Json | None, failed: Json, run: Json) -> JobStatus:
    times = _begun(run), _seconds(run.get("finishedAt") or failed.get("lastTransitionTime"))
    annotations = job["metadata"].get("annotations") or {}
    word = failed.get("reason", "Failed")
    if SUCCEEDED in annotations:
        return JobStatus(JobState.SUCCEEDED, None, "Completed", *times)
    if FAILURE in annotations:
        return JobStatus(JobState.FAILED, Failure.from_json(json.loads(annotations[FAILURE])), word, *times)
    if CANCELLED in annotations:
        return JobStatus(JobState.CANCELLED, None, "cancelled", *times)
    return JobStatus(JobState.FAILED, failure_of(pod, failed, run), word, *times)


def failure_of(pod: Json | None, failed: Json, run: Json) -> Failure | None:  # noqa: PLR0911 - one for each
    """Return what the cluster knows of a failure; ``None`` when the step's own outcome says more."""
    status = (pod or {}).get("status", {})
    reason, message = status.get("reason", ""), status.get("message", "")
    code = run.get("exitCode")
    if reason == "DeadlineExceeded":
        return Failure(
            Category.TIMEOUT,
            "The step ran longer than its timeout",
            reason,
            code,
            "raise timeout=, or do less",
        )
    if failed.get("reason") == "DeadlineExceeded":
        return Failure(
            Category.START_TIMEOUT, "The job did not come to its end within its deadline, waiting included",
            "DeadlineExceeded", code, "see what it waited for; raise start_timeout or timeout",
        )  # fmt: skip
    if "ephemeral" in message and "exceeds" in message:
        return Failure(
            Category.BAD_CONFIG, f"The step used more disk than it may: {message}", reason, code,
            "raise disk of resource_settings",
        )  # fmt: skip
    if run.get("reason") == "OOMKilled" and code != 0:
        return Failure(
            Category.OOM, "The step ran out of memory", "OOMKilled", code, "raise memory of resource_settings"
        )
    if (broken := _broken_init(pod)) is not None:
        return broken
    if taken := _disruption(status):
        text = f"The step's pod was taken away: {DISRUPTIONS.get(taken, taken)}"
        return Failure(Category.PREEMPTED, f"{text} ({message})" if message else text, taken, code, "")
    if pod is None or "deletionTimestamp" in pod["metadata"]:
        return Failure(
            Category.PREEMPTED, "The step's pod was deleted before it ended", "PodDeleted", None,
            "unless its node was lost or removed: find who deletes pods in this namespace",
        )  # fmt: skip
    return _failure_of_container(pod, run, code)


def _failure_of_container(pod: Json, run: Json, code: int | None) -> Failure | None:
    word = run.get("reason", "")
    if word in NEVER_BEGUN:
        return Failure(
            Category.BAD_CONFIG, f"The container could not be started: {run.get('message', '')}", word, code,
            "the image needs python3 in PATH: set image=, or settings python= to where it is",
        )  # fmt: skip
    if run.get("message") or (code is not None and code < 128):
        return None
    if code is not None:
        return Failure(
            Category.INFRA, f"The step's container was killed by signal {code - 128}", word, code,
            "somebody killed it, or its node ran out of memory as a whole",
        )  # fmt: skip
    status = pod["status"]
    reason, message = status.get("reason", ""), status.get("message", "")
    if reason and not containers_of(pod):
        return _refused(reason, message)
    if reason:
        return Failure(Category.INFRA, f"The step's pod failed: {message or reason}", reason, code, "")
    return None


def _refused(reason: str, message: str) -> Failure:
    """Return why the node that the scheduler had chosen did not take the pod: nothing of it ever ran."""
    summary = f"The node refused the step's pod: {message.removeprefix('Pod was rejected: ') or reason}"
    if reason in UNSUPPORTED:
        hint = "take that out of settings or pod_template, or choose other nodes with node_selector"
        return Failure(Category.BAD_CONFIG, summary, reason, None, hint)
    hint = "if it goes on: look at the labels, the free resources and the device plugins of the nodes"
    return Failure(Category.NO_CAPACITY, summary, reason, None, hint)


def newest(pods: Sequence[Json]) -> Json | None:
    """Return the pod that was made last."""
    return max(pods, key=_created, default=None)


def _created(pod: Json) -> str:
    return str(pod["metadata"].get("creationTimestamp"))


def _broken_init(pod: Json | None) -> Failure | None:
    name = broken_container(pod)
    if name is None:
        return None
    statuses = (pod or {}).get("status", {}).get("initContainerStatuses") or ()
    (run,) = (one["state"]["terminated"] for one in statuses if one["name"] == name)
    is_oom = run.get("reason") == "OOMKilled"
    return Failure(
        Category.OOM if is_oom else Category.BAD_CONFIG,
        f"Init container {name!r} failed before the step began",
        run.get("reason", ""), run.get("exitCode"), "see its last lines; they are the last lines here",
    )  # fmt: skip


def has_begun(pod: Json) -> bool:
    """Return whether the step's container was ever started."""
    return bool(_run_of(pod))


def has_ended(pod: Json) -> bool:
    """Return whether the step's container, or the pod as a whole, is over."""
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return is_over or "exitCode" in _run_of(pod) or broken_container(pod) is not None


def broken_container(pod: Json | None) -> str | None:
    """Return the name of the init container that kept the step from starting."""
    if pod is None or _run_of(pod):
        return None
    for one in pod.get("status", {}).get("initContainerStatuses") or ():
        if ((one.get("state") or {}).get("terminated") or {}).get("exitCode"):
            return str(one["name"])
    return None


def receipt_of(pods: Sequence[Json]) -> Mapping[str, Any] | None:
    """Return the receipt that the runner has left as the termination message; ``None`` when there is none."""
    for pod in sorted(pods, key=_created, reverse=True):
        try:
            receipt = json.loads(_run_of(pod)["message"])
        except (KeyError, ValueError):
            continue
        if isinstance(receipt, dict) and isinstance(receipt.get("digest"), str):
            return receipt
    return None


def _run_of(pod: Json | None) -> Json:
    """Return ``running`` or ``terminated`` of the step's container; empty while it waits."""
    for name, container in containers_of(pod or {}):
        if name == STEP:
            state = container.get("state") or {}
            found: Json = state.get("terminated") or state.get("running") or {}
            return found
    return {}


def containers_of(pod: Json) -> list[tuple[str, Json]]:
    """Return name and status of every container, those first that run first."""
    status = pod.get("status", {})
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return [(one["name"], one) for one in every]


def _disruption(status: Json) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and _is_true(condition):
            return str(condition.get("reason", "DisruptionTarget"))
    reason = str(status.get("reason", ""))
    return reason if reason in DISRUPTIONS else ""


def _waiting_word(pod: Json) -> str:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
            return f"{said} (see {', '.join(asked)})" if (asked := _asked_for(said)) else said
    for _, container in containers_of(pod):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", ""))
    return str(pod.get("status", {}).get("phase", ""))


def _asked_for(said: str) -> Sequence[str]:
    """Return what of a task the scheduler finds no node for."""
    short = re.findall(r"Insufficient ([\w./-]*\w)", said)
    asked = [RESOURCES.get(name, OTHER_RESOURCE) for name in short]
    asked += [options for words, options in PLACEMENT.items() if words in said.lower()]
    return list(dict.fromkeys(chain.from_iterable(asked)))


def _is_true(condition: Json | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _begun(run: Json) -> float | None:
    """Return when the step's container began to run."""
    return None if run.get("reason") in NEVER_BEGUN else _seconds(run.get("startedAt"))


def _seconds(text: str | None) -> float | None:
    return seconds(text) if text else None


def seconds(text: str) -> float:
    """Return a time of the API in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
