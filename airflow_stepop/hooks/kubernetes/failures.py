"""Classifies the failure of a step, from the reasons in its Job and its pod. ``status.py`` calls this module.

Sources: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions ,
https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/ and, for a kubelet's reasons,
https://github.com/kubernetes/kubernetes/tree/v1.34.0/pkg/kubelet
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.kubernetes.pods import (
    NEVER_BEGUN,
    begun_at,
    broken_container,
    condition_of,
    containers_of,
    is_true,
    run_of,
)

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.objects import Json

# reason of a pod's condition DisruptionTarget, or of a pod itself -> explanation for the user
DISRUPTIONS: Mapping[str, str] = {
    "PreemptionByScheduler": "a pod of higher priority needed its place",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByTaintManager": "its node was lost or tainted",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node shut down or ran short of something",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node shut down",
    "Shutdown": "its node shut down",
    "Terminated": "its node shut down",
    "Preempting": "a pod of higher priority needed its place",
}
# a kubelet's reasons to refuse a pod that a similar node would refuse, too
UNSUPPORTED = (
    "AppArmor", "InitContainerRestartPolicyForbidden", "PodLevelResourcesNotSupported", "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch", "SMTAlignmentError", "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
)  # fmt: skip


@dataclass(frozen=True)
class _End:
    """The objects of a failed step.

    :param failed: the Job's condition ``Failed``; empty while the Job has none
    """

    pod: Json | None
    failed: Json

    @property
    def status(self) -> Json:
        return (self.pod or {}).get("status") or {}

    @property
    def reason(self) -> str:
        return str(self.status.get("reason") or "")

    @property
    def message(self) -> str:
        return str(self.status.get("message") or "")

    @property
    def run(self) -> Json:
        return run_of(self.pod)

    @property
    def code(self) -> int | None:
        return self.run.get("exitCode")


def failure_of(pod: Json | None, failed: Json) -> Failure | None:
    """Return the failure as the cluster reports it; ``None`` when the step's own outcome says more.

    :param failed: the Job's condition ``Failed``; empty when there is none
    """
    end = _End(pod, failed)
    return next((found for rule in _RULES if (found := rule(end)) is not None), None)


def disruption(pod: Json | None) -> str:
    """Return the cluster's reason for removing a pod (see DISRUPTIONS); empty when there is none."""
    if is_true(target := condition_of(pod, "DisruptionTarget")):
        return str(target.get("reason", "DisruptionTarget"))
    reason = str((pod or {}).get("status", {}).get("reason", ""))
    return reason if reason in DISRUPTIONS else ""


def _out_of_time(end: _End) -> Failure | None:
    if end.reason == "DeadlineExceeded" and begun_at(end.run) is not None:
        return Failure(
            Category.TIMEOUT, "The step ran longer than its timeout", end.reason, end.code,
            "raise timeout=, or do less",
        )  # fmt: skip
    if "DeadlineExceeded" in (end.reason, end.failed.get("reason")):
        return Failure(
            Category.START_TIMEOUT, "The job did not end within its deadline, waiting time included",
            "DeadlineExceeded", end.code, "see what the job waited for; raise start_timeout or timeout",
        )  # fmt: skip
    return None


def _refused(end: _End) -> Failure | None:
    """Recognize a pod that the kubelet of its node refused. None of its containers ever ran."""
    if not end.reason or containers_of(end.pod or {}):
        return None
    message = end.message.removeprefix("Pod was rejected: ") or end.reason
    summary = f"The node refused the step's pod: {message}"
    if end.reason in UNSUPPORTED:
        hint = "remove this option from settings or pod_template, or choose other nodes with node_selector"
        return Failure(Category.BAD_CONFIG, summary, end.reason, None, hint)
    hint = "if it happens again: check the labels, the free resources and the device plugins of the nodes"
    return Failure(Category.NO_CAPACITY, summary, end.reason, None, hint)


def _taken_away(end: _End) -> Failure | None:
    """Recognize an evicted or removed pod.

    A pod that exceeds its own limit has the reason ``Evicted`` without the condition DisruptionTarget.
    """
    taken = disruption(end.pod)
    if not taken and end.reason == "Evicted":
        return Failure(
            Category.BAD_CONFIG, f"The step used more disk than its limit: {end.message}".rstrip(": "),
            end.reason, end.code, "raise disk of resource_settings, or the limit of the named volume",
        )  # fmt: skip
    if not taken:
        return None
    text = f"The step's pod was taken away: {DISRUPTIONS.get(taken, taken)}"
    text = f"{text} ({end.message})" if end.message else text
    return Failure(Category.PREEMPTED, text, taken, end.code, "")


def _out_of_memory(end: _End) -> Failure | None:
    if end.run.get("reason") != "OOMKilled" or end.code == 0:
        return None
    return Failure(
        Category.OOM, "The step ran out of memory", "OOMKilled", end.code, "raise memory of resource_settings"
    )


def _broken_init(end: _End) -> Failure | None:
    name = broken_container(end.pod)
    if name is None:
        return None
    statuses = end.status.get("initContainerStatuses") or ()
    (run,) = (one["state"]["terminated"] for one in statuses if one["name"] == name)
    is_oom = run.get("reason") == "OOMKilled"
    return Failure(
        Category.OOM if is_oom else Category.BAD_CONFIG,
        f"Init container {name!r} failed before the step began",
        run.get("reason", ""), run.get("exitCode"), "see its last lines of output, which are shown here",
    )  # fmt: skip


def _deleted(end: _End) -> Failure | None:
    if end.pod is not None and "deletionTimestamp" not in end.pod["metadata"]:
        return None
    return Failure(
        Category.PREEMPTED, "The step's pod was deleted before it ended", "PodDeleted", None,
        "if its node was not lost or removed: find out who deletes pods in this namespace",
    )  # fmt: skip


def _broken(end: _End) -> Failure | None:
    reason = end.run.get("reason", "")
    if reason in NEVER_BEGUN:
        return Failure(
            Category.BAD_CONFIG, f"The container could not be started: {end.run.get('message', '')}", reason,
            end.code, "the image needs python3 in PATH: set image=, or settings python= to its path",
        )  # fmt: skip
    if end.run.get("message") or (end.code is not None and end.code < 128):
        return None
    if end.code is not None:
        return Failure(
            Category.INFRA, f"The step's container was killed by signal {end.code - 128}", reason, end.code,
            "somebody killed it, or its node ran out of memory as a whole",
        )  # fmt: skip
    if end.reason:
        summary = f"The step's pod failed: {end.message or end.reason}"
        return Failure(Category.INFRA, summary, end.reason, end.code, "")
    return None


# the first rule that returns a failure decides
_RULES: Sequence[Callable[[_End], Failure | None]] = (
    _out_of_time, _refused, _out_of_memory, _taken_away, _broken_init, _deleted, _broken,
)  # fmt: skip
