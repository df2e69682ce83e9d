"""Decides whether a job that does not start can still start, from its pod and its warning events.

The cluster retries without end, also for permanent reasons. ``job_states.py`` calls :func:`startup_failure`
for a job with a pod and :func:`refusal` for a job without one. A failure ends the job; for a transient reason
the job waits.

Sources: https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff and
https://kubernetes.io/docs/tasks/debug/debug-application/debug-pods/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.messages import without_names
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import condition_of, containers_of, looping_sidecar
from airflow_stepop.hooks.kubernetes.quotas import beyond_quota, without_usage

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.events import WarningEvent

# reason of a waiting container -> category, hint for the user
WAITING: Mapping[str, tuple[Category, str]] = {
    "ErrImagePull": (Category.IMAGE_PULL, "check image= and image_pull_secrets"),
    "ImagePullBackOff": (Category.IMAGE_PULL, "check image= and image_pull_secrets"),
    "ErrImageNeverPull": (Category.IMAGE_PULL, "image_pull_policy is Never: load the image onto the node"),
    "InvalidImageName": (Category.IMAGE_PULL, "check the spelling of image="),
    "ImageInspectError": (Category.IMAGE_PULL, "check that image= has this node's architecture"),
    "CreateContainerConfigError": (Category.BAD_CONFIG, "check env_from, env, volumes and security contexts"),
    "CreateContainerError": (Category.BAD_CONFIG, "check volumes, volume_mounts and security contexts"),
    "RunContainerError": (Category.BAD_CONFIG, "the image needs python3: set image=, or settings python="),
    "CrashLoopBackOff": (Category.BAD_CONFIG, "an init container or sidecar fails: see its log"),
}
# parts of a registry's answer after which another pull cannot succeed
FINAL_PULLS = (
    "not found", "does not exist", "unauthorized", "authentication required", "denied",
    "forbidden", "invalid reference", "manifest unknown", "no match for platform",
)  # fmt: skip
# parts of the API server's answer when it refuses a pod permanently; any other refusal may be transient
FINAL_REFUSALS = ("is forbidden", "is invalid", "denied the request", "not found")
# parts of an answer that is transient even if one of FINAL_REFUSALS is in it
TRANSIENT_REFUSALS = (
    "exceeded quota",
    "failed calling webhook",
    "is being terminated",
    "status unknown for quota",
    "timeout",
    "unavailable",
)
# A pod refused this often for a permanent reason fails; below that the missing object may still appear
REFUSALS = 2
# parts of a kubelet's message about a container that its next try may start
TRANSIENT_START_ERRORS = (
    "deadline exceeded",
    "timed out",
    "is reserved for",
    "unavailable",
    "connection refused",
)
TRIES = 3  # a pull or a start that failed this often for a transient reason fails the step
PULLS = ("ErrImagePull", "ImagePullBackOff")
RETRIED_BY_KUBELET = (*PULLS, "ImageInspectError", "CreateContainerError")
MOUNT_TRIES = 3  # a mount that failed this often fails the step; the missing object may appear before
# The scheduler's message about a missing object
UNSCHEDULED = re.compile(r'(?:persistentvolumeclaim|resourceclaim)\S* "[^"]*" not found')
# The message about a missing object. A missing CSI driver does not match: the driver may still register
MISSING = re.compile(r'(secret|configmap|persistentvolumeclaim)s? "[^"]*" not found')
# The name of a pod, with the five characters that the Job controller draws for each try
_POD = re.compile(r'(^pods? "[^"]+)-[bcdfghjklmnpqrstvwxz2456789]{5}"', re.IGNORECASE)
# Names that the API server writes without quotes
UNQUOTED = re.compile(r"(?:quota: |PriorityClass with name |service account )([^\s,;:]+)")


def refusal(events: Sequence[WarningEvent]) -> tuple[Failure | None, str, str]:
    """Return why the cluster will never create a pod for a job, and the last reason and message.

    The failure is ``None`` while a pod may still be created. Reason and message are empty without a refusal.
    The message stays the same at each new try of the Job controller, unless the reason changes.
    """
    refusals = [one for one in events if one.reason == "FailedCreate"]
    if not refusals:
        return None, "", ""
    final = [one for one in refusals if _is_final(one.message)]
    message = (final or refusals)[-1].message
    message = _POD.sub(r'\1"', message.partition("Error creating: ")[2] or message)
    if beyond := beyond_quota(message):
        summary = f"The step asks for more than its namespace may ever have: {beyond}. {message}"
        hint = "ask for less in resource_settings, or have the quota raised"
        return Failure(Category.BAD_CONFIG, summary, "FailedCreate", None, hint), "FailedCreate", message
    message = without_usage(message)
    if sum(one.count for one in final) < REFUSALS:
        return None, "FailedCreate", message
    category = Category.BAD_CONFIG if "not found" in _unnamed(message) else Category.DENIED
    hint = "change the settings that the message names, or have the namespace allow them"
    return (
        Failure(category, f"The cluster refuses the pod: {message}", "FailedCreate", None, hint),
        "FailedCreate",
        message,
    )


def _is_final(message: str) -> bool:
    rest = _unnamed(message)
    is_transient = any(text in rest for text in TRANSIENT_REFUSALS)
    return not is_transient and any(text in rest for text in FINAL_REFUSALS)


def _unnamed(message: str) -> str:
    return without_names(UNQUOTED.sub(lambda found: found[0].removesuffix(found[1]), message))


def is_blocked(pod: Json) -> bool:
    """Return whether a container of the pod waits for a reason that warning events may explain."""
    reasons = {_waiting(one).get("reason") for _, one in containers_of(pod)}
    if UNSCHEDULED.search(_unscheduled(pod)):
        return True
    return bool({"ContainerCreating", "PodInitializing", *WAITING} & reasons)


def _unscheduled(pod: Json) -> str:
    """Return the scheduler's message about a pod without a node."""
    placed = condition_of(pod, "PodScheduled")
    return str(placed.get("message") or "") if placed.get("status") == "False" else ""


def _waiting(container: Json) -> Json:
    found: Json = (container.get("state") or {}).get("waiting") or {}
    return found


def mount_error(pod: Json, events: Sequence[WarningEvent]) -> tuple[str, str]:
    """Return the kubelet's reason and message about a volume that cannot be mounted; empty if none."""
    if not _may_be_mounting(pod):
        return "", ""
    mounts = [one for one in events if one.reason in ("FailedMount", "FailedAttachVolume")]
    return (mounts[-1].reason, mounts[-1].message) if mounts else ("", "")


def _may_be_mounting(pod: Json) -> bool:
    """Return whether the kubelet may still mount the pod's volumes.

    The kubelet pulls and starts nothing before all volumes are mounted. Events stay for an hour, so those of
    a mount that has succeeded since say nothing about the pod.
    """
    states = [container.get("state") or {} for _, container in containers_of(pod)]
    reasons = {state.get("waiting", {}).get("reason", "") for state in states}
    is_waiting = all("running" not in state and "terminated" not in state for state in states)
    return is_waiting and reasons <= {"", "ContainerCreating", "PodInitializing"}


def startup_failure(pod: Json, events: Sequence[WarningEvent]) -> Failure | None:
    """Return why a waiting pod can never start; ``None`` while the pod may still start."""
    message = _unscheduled(pod)
    if UNSCHEDULED.search(message):
        return Failure(
            Category.BAD_CONFIG, f"The step needs an object that does not exist: {message}", "Unschedulable",
            None, "create it in the namespace of the step, or correct volumes, or pod_template",
        )  # fmt: skip
    if (sidecar := looping_sidecar(pod)) is not None:
        return _looping(sidecar)
    for name, container in containers_of(pod):
        waiting = _waiting(container)
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason not in WAITING:
            continue
        if _may_start(reason, without_names(message, _registries(pod)).lower(), events):
            continue
        category, hint = WAITING[reason]
        what = f"container {name!r} cannot be started" if name != STEP else "The step cannot be started"
        return Failure(category, f"{what}: {reason}: {message}".rstrip(": "), reason, None, hint)
    return _missing_volume(events) if _may_be_mounting(pod) else None


def _looping(sidecar: Json) -> Failure:
    run, ends = sidecar["state"]["terminated"], int(sidecar["restartCount"]) + 1
    summary = f"Sidecar {sidecar['name']!r} ended {ends} times before the step could begin"
    message = str(run.get("message") or "").strip()
    return Failure(
        Category.BAD_CONFIG, f"{summary}: {message}" if message else summary, str(run.get("reason") or ""),
        run.get("exitCode"), "a sidecar must keep running: see its last lines of output",
    )  # fmt: skip


def _registries(pod: Json) -> set[str]:
    """Return the hosts of the registries from which the pod's images come."""
    spec = pod.get("spec") or {}
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    hosts = {str(one.get("image", "")).partition("/")[0] for one in containers}
    return hosts | {host.partition(":")[0] for host in hosts}


def _may_start(reason: str, message: str, events: Sequence[WarningEvent]) -> bool:
    """Return whether a container may still start although its kubelet has just failed to start it."""
    is_pull = reason in PULLS
    if is_pull and any(text in message for text in FINAL_PULLS):
        return False
    if not is_pull and any(text in message for text in TRANSIENT_START_ERRORS):
        return True
    failed = [
        one for one in events if one.reason == "Failed" and is_pull == ("Failed to pull" in one.message)
    ]
    tries = sum(one.count for one in failed if is_pull or "Pull" not in one.message)
    return reason in RETRIED_BY_KUBELET and tries < TRIES


def _missing_volume(events: Sequence[WarningEvent]) -> Failure | None:
    for one in events:
        if one.reason != "FailedMount" or one.count < MOUNT_TRIES or not MISSING.search(one.message):
            continue
        if '"stepop-in"' in one.message:
            summary = f"The step's own Secret was deleted before it began: {one.message}"
            return Failure(
                Category.INFRA, summary, one.reason, None, "find who deletes Secrets in this namespace"
            )
        return Failure(
            Category.BAD_CONFIG, f"A volume of the step cannot be mounted: {one.message}", one.reason, None,
            "check volumes and volume_mounts",
        )  # fmt: skip
    return None
