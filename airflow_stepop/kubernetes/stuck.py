"""Why a job does not begin, as long as the cluster goes on trying: what can still pass, and what cannot.

Sources: https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff and
https://kubernetes.io/docs/tasks/debug/debug-application/debug-pods/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_stepop.job import Category, Failure
from airflow_stepop.kubernetes.objects import STEP, Json
from airflow_stepop.kubernetes.pods import containers_of
from airflow_stepop.kubernetes.warnings import Warned

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
    "not found", "does not exist", "unauthorized", "authentication required", "denied",
    "forbidden", "invalid reference", "manifest unknown", "no match for platform",
)  # fmt: skip
# words of the API server that refuses a pod, after which it may take the same pod a moment later
PASSING_REFUSALS = (
    "exceeded quota",
    "failed calling webhook",
    "is being terminated",
    "timeout",
    "unavailable",
)
REFUSALS = (
    2  # so often a pod may be refused for a reason that cannot: what it needs may be made a moment later
)
PULL_TRIES = 3  # so often an image may fail to come for a reason that can pass
MOUNT_TRIES = 3  # so often a volume may fail to be there: what it needs may be made together with the job


def refusal(warned: Sequence[Warned]) -> tuple[Failure | None, str]:
    """Return why the cluster makes no pod for a job, if it never will, and what it says meanwhile."""
    refusals = [one for one in warned if one.reason == "FailedCreate"]
    if not refusals:
        return None, ""
    said = refusals[-1].message.partition("Error creating: ")[2] or refusals[-1].message
    tries = sum(one.count for one in refusals)
    if tries < REFUSALS or any(text in said for text in PASSING_REFUSALS):
        return None, f"FailedCreate: {said}"
    category = Category.BAD_CONFIG if "not found" in said else Category.DENIED
    hint = "change the settings that it names, or have the namespace allow them"
    return Failure(category, f"The cluster refuses the pod: {said}", "FailedCreate", None, hint), said


def is_held_up(pod: Json) -> bool:
    """Return whether the cluster's warnings may say why the pod does not start."""
    words = {_waiting(one).get("reason") for _, one in containers_of(pod)}
    return bool({"ContainerCreating", "PodInitializing", *WAITING} & words)


def _waiting(container: Json) -> Json:
    found: Json = (container.get("state") or {}).get("waiting") or {}
    return found


def mount_trouble(warned: Sequence[Warned]) -> str:
    """Return what the node says of a volume that it cannot mount; empty when it can."""
    mounts = [one for one in warned if one.reason in ("FailedMount", "FailedAttachVolume")]
    return f"{mounts[-1].reason}: {mounts[-1].message}" if mounts else ""


def stuck_failure(pod: Json, warned: Sequence[Warned]) -> Failure | None:
    """Return why a pod that waits can never start; ``None`` as long as it may."""
    for name, container in containers_of(pod):
        waiting = _waiting(container)
        word, message = waiting.get("reason", ""), waiting.get("message", "")
        if word not in WAITING:
            continue
        category, hint = WAITING[word]
        is_pull = word in ("ErrImagePull", "ImagePullBackOff")
        tries = sum(one.count for one in warned if one.reason == "Failed" and "pull" in one.message)
        if is_pull and tries < PULL_TRIES and not any(text in message.lower() for text in FINAL_PULLS):
            continue
        what = f"container {name!r} cannot be started" if name != STEP else "The step cannot be started"
        return Failure(category, f"{what}: {word}: {message}".rstrip(": "), word, None, hint)
    return _missing_volume(warned)


def _missing_volume(warned: Sequence[Warned]) -> Failure | None:
    for one in warned:
        if one.reason != "FailedMount" or "not found" not in one.message or one.count < MOUNT_TRIES:
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
