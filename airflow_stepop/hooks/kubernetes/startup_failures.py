"""Why a job does not begin, as long as the cluster goes on trying: what can still pass, and what cannot.

Sources: https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff and
https://kubernetes.io/docs/tasks/debug/debug-application/debug-pods/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import containers_of

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.events import Warned

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
# words of the API server that does not take such a pod; after any others it may a moment later
FINAL_REFUSALS = ("is forbidden", "is invalid", "denied the request", "not found")
PASSING_REFUSALS = (
    "exceeded quota",
    "failed calling webhook",
    "is being terminated",
    "status unknown for quota",
    "timeout",
    "unavailable",
)
REFUSALS = (
    2  # so often a pod may be refused for a reason that cannot: what it needs may be made a moment later
)
# words of a node that cannot start a container now; it goes on trying, and may as well succeed
PASSING_STARTS = ("deadline exceeded", "timed out", "is reserved for", "unavailable", "connection refused")
TRIES = 3  # so often an image, or a container, may fail to come for a reason that can pass
PULLS = ("ErrImagePull", "ImagePullBackOff")
MAY_PASS = (*PULLS, "ImageInspectError", "CreateContainerError")
MOUNT_TRIES = 3  # so often a volume may fail to be there: what it needs may be made together with the job
# what it needs that is an object of the cluster; a driver that is not found is one that is not there yet
MISSING = re.compile(r'(secret|configmap|persistentvolumeclaim)s? "[^"]*" not found')


def refusal(warned: Sequence[Warned]) -> tuple[Failure | None, str]:
    """Return why the cluster makes no pod for a job, if it never will, and what it says meanwhile."""
    refusals = [one for one in warned if one.reason == "FailedCreate"]
    if not refusals:
        return None, ""
    final = [one for one in refusals if _is_final(one.message)]
    said = (final or refusals)[-1].message
    said = said.partition("Error creating: ")[2] or said
    if sum(one.count for one in final) < REFUSALS:
        return None, f"FailedCreate: {said}"
    category = Category.BAD_CONFIG if "not found" in said else Category.DENIED
    hint = "change the settings that it names, or have the namespace allow them"
    return Failure(category, f"The cluster refuses the pod: {said}", "FailedCreate", None, hint), said


def _is_final(refused: str) -> bool:
    is_passing = any(text in refused for text in PASSING_REFUSALS)
    return not is_passing and any(text in refused for text in FINAL_REFUSALS)


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
        if _may_start(word, message.lower(), warned):
            continue
        category, hint = WAITING[word]
        what = f"container {name!r} cannot be started" if name != STEP else "The step cannot be started"
        return Failure(category, f"{what}: {word}: {message}".rstrip(": "), word, None, hint)
    return _missing_volume(warned)


def _may_start(word: str, message: str, warned: Sequence[Warned]) -> bool:
    """Return whether a container may start although its node has just said that it cannot."""
    is_pull = word in PULLS
    if is_pull and any(text in message for text in FINAL_PULLS):
        return False
    if not is_pull and any(text in message for text in PASSING_STARTS):
        return True
    failed = [
        one for one in warned if one.reason == "Failed" and is_pull == ("Failed to pull" in one.message)
    ]
    tries = sum(one.count for one in failed if is_pull or "Pull" not in one.message)
    return word in MAY_PASS and tries < TRIES


def _missing_volume(warned: Sequence[Warned]) -> Failure | None:
    for one in warned:
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
