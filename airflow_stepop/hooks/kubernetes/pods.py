"""Reads fields of a pod: the state of the step's container, its times, and the receipt in its message.

The other modules of this backend call these pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from airflow_stepop.hooks.common.receipts import Receipt, find_receipt
from airflow_stepop.hooks.kubernetes.objects import STEP, Json

# reasons of a container that could not be started; the kubelet then gives 1970 as its start
NEVER_BEGUN = ("StartError", "ContainerCannotRun")
RESTARTS = 2  # a sidecar that ends again after so many restarts will not keep running


def newest(pods: Sequence[Json]) -> Json | None:
    """Return the pod that was created last; ``None`` without pods."""
    return max(pods, key=_created, default=None)


def _created(pod: Json) -> str:
    return str(pod["metadata"].get("creationTimestamp"))


def has_begun(pod: Json) -> bool:
    """Return whether the step's container was ever started."""
    return bool(run_of(pod))


def has_ended(pod: Json) -> bool:
    """Return whether the step's container or the pod has ended, or an init container has failed."""
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return is_over or "exitCode" in run_of(pod) or broken_container(pod) is not None


def broken_container(pod: Json | None) -> str | None:
    """Return the name of the init container that kept the step from starting."""
    if pod is None or run_of(pod):
        return None
    sidecars = sidecars_of(pod)
    for one in pod.get("status", {}).get("initContainerStatuses") or ():
        is_broken = ((one.get("state") or {}).get("terminated") or {}).get("exitCode")
        if is_broken and one["name"] not in sidecars:
            return str(one["name"])
    return None


def sidecars_of(pod: Json) -> set[str]:
    """Return the names of the sidecars, which the kubelet starts again when they end."""
    containers = pod.get("spec", {}).get("initContainers") or ()
    return {one["name"] for one in containers if one.get("restartPolicy") == "Always"}


def looping_sidecar(pod: Json | None) -> Json | None:
    """Return the status of a sidecar that ends again and again and so keeps the step from starting.

    Between two starts, a kubelet from version 1.34 on shows the state ``terminated`` in a pod with
    ``restartPolicy: Never``. Before, the state was ``waiting`` with the reason CrashLoopBackOff.
    """
    if pod is None or run_of(pod):
        return None
    sidecars = sidecars_of(pod)
    for one in pod.get("status", {}).get("initContainerStatuses") or ():
        is_down = "terminated" in (one.get("state") or {})
        if one["name"] in sidecars and is_down and int(one.get("restartCount") or 0) >= RESTARTS:
            found: Json = one
            return found
    return None


def logged_containers(pod: Json) -> list[str]:
    """Return the containers whose logs belong to the step, in the order in which they began.

    These are the init containers without the sidecars, and then the step's container or the sidecar that
    keeps it from starting.
    """
    sidecars = sidecars_of(pod)
    found = [
        str(one["name"])
        for one in pod.get("status", {}).get("initContainerStatuses") or ()
        if one["name"] not in sidecars and {"running", "terminated"} & (one.get("state") or {}).keys()
    ]
    sidecar = looping_sidecar(pod)
    last = [STEP] if has_begun(pod) else [str(sidecar["name"])] if sidecar is not None else []
    return [*found, *last]


def receipt_of(pods: Sequence[Json]) -> Receipt | None:
    """Return the receipt that the runner wrote as the termination message; ``None`` when there is none."""
    messages = (run_of(pod).get("message") or "" for pod in sorted(pods, key=_created))
    return find_receipt(messages, prefix="")


def run_of(pod: Json | None) -> Json:
    """Return the state ``running`` or ``terminated`` of the step's container; empty while waiting."""
    for name, container in containers_of(pod or {}):
        if name == STEP:
            state = container.get("state") or {}
            found: Json = state.get("terminated") or state.get("running") or {}
            return found
    return {}


def containers_of(pod: Json) -> list[tuple[str, Json]]:
    """Return the name and status of every container, init containers first."""
    status = pod.get("status", {})
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return [(one["name"], one) for one in every]


def condition_of(found: Json | None, kind: str) -> Json:
    """Return the condition of a Job or a pod with the type ``kind``; empty when there is none."""
    conditions = (found or {}).get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def is_true(condition: Json) -> bool:
    return bool(condition.get("status") == "True")


def begun_at(run: Json) -> float | None:
    """Return when the step's container started, in seconds since the epoch; ``None``: it never started."""
    return None if run.get("reason") in NEVER_BEGUN else seconds_of(run.get("startedAt"))


def seconds_of(text: str | None) -> float | None:
    return seconds(text) if text else None


def seconds(text: str) -> float:
    """Return a time of the API in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
