"""What a Job and its pod say about a step: total tables from their words to states and categories.

Sources: https://kubernetes.io/docs/concepts/workloads/controllers/job/ ,
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_stepop.job import Category, Failure, JobState, JobStatus
from airflow_stepop.kubernetes.manifests import CANCELLED, FAILURE, STEP
from airflow_stepop.kubernetes.objects import Json

# why a container is not started -> category, what to do
WAITING: Mapping[str, tuple[Category, str]] = {
    "ErrImagePull": (Category.IMAGE_PULL, "check image= and image_pull_secrets"),
    "ImagePullBackOff": (Category.IMAGE_PULL, "check image= and image_pull_secrets"),
    "ErrImageNeverPull": (Category.IMAGE_PULL, "image_pull_policy is Never: load the image into the node"),
    "InvalidImageName": (Category.IMAGE_PULL, "check the spelling of image="),
    "ImageInspectError": (Category.IMAGE_PULL, "check that image= has this node's architecture"),
    "CreateContainerConfigError": (Category.BAD_CONFIG, "check env_from, env, volumes and security contexts"),
    "CreateContainerError": (Category.BAD_CONFIG, "check volumes, volume_mounts and security contexts"),
    "RunContainerError": (Category.BAD_CONFIG, "the image needs python3: set image=, or settings python="),
    "CrashLoopBackOff": (Category.BAD_CONFIG, "an init container or sidecar fails: see its log"),
}
# words of a registry that mean: asking again cannot help
FINAL_PULLS = (
    "not found", "no such", "does not exist", "unauthorized", "authentication required", "denied",
    "forbidden", "invalid reference", "manifest unknown", "no match for platform",
)  # fmt: skip
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


def status_of(job: Json | None, pods: Sequence[Json]) -> JobStatus:
    """Return where the step stands.

    :param job: the Job, ``None`` when the cluster knows none
    :param pods: its pods
    """
    if job is None:
        return JobStatus(JobState.GONE)
    pod = max(pods, key=lambda one: str(one["metadata"].get("creationTimestamp")), default=None)
    run = _run_of(pod)
    conditions = {one["type"]: one for one in job.get("status", {}).get("conditions") or ()}
    times = _seconds(run.get("startedAt")), _seconds(run.get("finishedAt"))
    if _is_true(conditions.get("Complete")):
        return JobStatus(JobState.SUCCEEDED, None, "Complete", *times)
    if (failed := conditions.get("Failed")) and _is_true(failed):
        return _failed(job, pod, failed, run)
    if pod is None:
        word = "Suspended" if job["spec"].get("suspend") else "Pending"
        return JobStatus(JobState.PENDING, None, word)
    if times[0] is not None or run:
        return JobStatus(JobState.RUNNING, None, pod.get("status", {}).get("phase", ""), times[0])
    return JobStatus(JobState.PENDING, None, _waiting_word(pod))


def _failed(job: Json, pod: Json | None, failed: Json, run: Json) -> JobStatus:
    times = (
        _seconds(run.get("startedAt")),
        _seconds(run.get("finishedAt") or failed.get("lastTransitionTime")),
    )
    annotations = job["metadata"].get("annotations") or {}
    word = failed.get("reason", "Failed")
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
    if taken := _disruption(status):
        text = f"The step's pod was taken away: {DISRUPTIONS.get(taken, taken)}"
        return Failure(Category.PREEMPTED, f"{text} ({message})" if message else text, taken, code, "")
    if pod is None or "deletionTimestamp" in pod["metadata"]:
        return Failure(
            Category.PREEMPTED, "The step's pod was deleted before it ended", "PodDeleted", None,
            "find who deletes pods in this namespace",
        )  # fmt: skip
    return _failure_of_container(run, reason, message, code)


def _failure_of_container(run: Json, reason: str, message: str, code: int | None) -> Failure | None:
    word = run.get("reason", "")
    if word in ("StartError", "ContainerCannotRun"):
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
    if reason:
        return Failure(Category.INFRA, f"The step's pod failed: {message or reason}", reason, code, "")
    return None


def stuck_failure(pod: Json, tries: int) -> Failure | None:
    """Return why a pod that waits can never start; ``None`` as long as it may.

    :param tries: how often pulling the image has failed
    """
    for name, container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        word, message = waiting.get("reason", ""), waiting.get("message", "")
        if word not in WAITING:
            continue
        category, hint = WAITING[word]
        is_pull = word in ("ErrImagePull", "ImagePullBackOff")
        if is_pull and tries < 3 and not any(text in message.lower() for text in FINAL_PULLS):
            continue
        what = f"container {name!r} cannot be started" if name != STEP else "The step cannot be started"
        return Failure(category, f"{what}: {word}: {message}".rstrip(": "), word, None, hint)
    return None


def is_pulling_again(pod: Json) -> bool:
    """Return whether the node has failed to pull an image of the pod."""
    words = [((one.get("state") or {}).get("waiting") or {}).get("reason") for _, one in _containers(pod)]
    return bool({"ErrImagePull", "ImagePullBackOff"} & set(words))


def receipt_of(pods: Sequence[Json]) -> Mapping[str, Any] | None:
    """Return the receipt that the runner has left as the termination message; ``None`` when there is none."""
    for pod in sorted(pods, key=lambda one: str(one["metadata"].get("creationTimestamp")), reverse=True):
        try:
            receipt = json.loads(_run_of(pod)["message"])
        except (KeyError, ValueError):
            continue
        if isinstance(receipt, dict) and isinstance(receipt.get("digest"), str):
            return receipt
    return None


def _run_of(pod: Json | None) -> Json:
    """Return ``running`` or ``terminated`` of the step's container; empty while it waits."""
    for name, container in _containers(pod or {}):
        if name == STEP:
            state = container.get("state") or {}
            found: Json = state.get("terminated") or state.get("running") or {}
            return found
    return {}


def _containers(pod: Json) -> list[tuple[str, Json]]:
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
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    for _, container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", ""))
    return str(pod.get("status", {}).get("phase", ""))


def _is_true(condition: Json | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _seconds(text: str | None) -> float | None:
    return seconds(text) if text else None


def seconds(text: str) -> float:
    """Return a time of the API in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
