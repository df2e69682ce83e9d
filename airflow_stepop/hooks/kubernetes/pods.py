"""What is read from a pod: which container is the step's, whether it has begun, and what it left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from airflow_stepop.hooks.common.receipts import Receipt, find_receipt
from airflow_stepop.hooks.kubernetes.objects import STEP, Json

# reason of a container that could not be started -> its times mean nothing: they are those of the epoch
NEVER_BEGUN = ("StartError", "ContainerCannotRun")


def newest(pods: Sequence[Json]) -> Json | None:
    """Return the pod that was made last."""
    return max(pods, key=_created, default=None)


def _created(pod: Json) -> str:
    return str(pod["metadata"].get("creationTimestamp"))


def has_begun(pod: Json) -> bool:
    """Return whether the step's container was ever started."""
    return bool(run_of(pod))


def has_ended(pod: Json) -> bool:
    """Return whether the step's container, or the pod as a whole, is over."""
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return is_over or "exitCode" in run_of(pod) or broken_container(pod) is not None


def broken_container(pod: Json | None) -> str | None:
    """Return the name of the init container that kept the step from starting."""
    if pod is None or run_of(pod):
        return None
    for one in pod.get("status", {}).get("initContainerStatuses") or ():
        if ((one.get("state") or {}).get("terminated") or {}).get("exitCode"):
            return str(one["name"])
    return None


def receipt_of(pods: Sequence[Json]) -> Receipt | None:
    """Return the receipt that the runner has left as the termination message; ``None`` when there is none."""
    messages = (run_of(pod).get("message") or "" for pod in sorted(pods, key=_created))
    return find_receipt(messages, prefix="")


def run_of(pod: Json | None) -> Json:
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


def condition_of(found: Json | None, kind: str) -> Json:
    """Return a condition of a Job or a pod; empty when it has none of that kind."""
    conditions = (found or {}).get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def is_true(condition: Json) -> bool:
    return bool(condition.get("status") == "True")


def begun_at(run: Json) -> float | None:
    """Return when the step's container began to run."""
    return None if run.get("reason") in NEVER_BEGUN else seconds_of(run.get("startedAt"))


def seconds_of(text: str | None) -> float | None:
    return seconds(text) if text else None


def seconds(text: str) -> float:
    """Return a time of the API in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
