"""How tests wait for steps on a real cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME
from airflow_stepop.job import JobHandle, JobState, JobStatus
from tests.support.waiting import wait_until


def wait_status(
    hook: KubernetesStepHook,
    handle: JobHandle,
    what: str,
    holds: Callable[[JobStatus], object],
) -> JobStatus:
    """Ask for the status of a job until ``holds`` accepts it.

    :param what: the event; the message of a failed test names it
    """
    return wait_until(
        lambda: hook.status([handle])[handle],
        f"{handle.id}: {what}",
        holds=holds,
        explain=lambda: [line.text for line in hook.tail(handle, 20).lines],
        pause_s=0.2,
    )


def wait_over(hook: KubernetesStepHook, handle: JobHandle) -> JobStatus:
    """Wait until the job is over."""
    return wait_status(hook, handle, "its end", lambda status: status.state.is_terminal)


def wait_running(hook: KubernetesStepHook, handle: JobHandle) -> JobStatus:
    return wait_status(hook, handle, "it runs", lambda status: status.state is JobState.RUNNING)


def wait_lines(hook: KubernetesStepHook, handle: JobHandle, *lines: str) -> list[str]:
    """Wait until the step has printed exactly these lines. Without ``lines``, wait for any first line."""
    return wait_until(
        lambda: [line.text for line in hook.tail(handle, len(lines) + 1).lines],
        f"{handle.id} to print {list(lines) or 'something'}",
        holds=lambda found: found == list(lines) if lines else found,
        explain=lambda: hook.status([handle])[handle],
        pause_s=0.2,
    )


def wait_no_pods(hook: KubernetesStepHook, handle: JobHandle) -> None:
    wait_until(
        lambda: [pod["metadata"]["name"] for pod in pods_of(hook, handle)],
        f"the pods of {handle.id} to be gone",
        holds=lambda pods: not pods,
        pause_s=0.2,
    )


def pods_of(hook: KubernetesStepHook, handle: JobHandle) -> list[Any]:
    return list(hook.cluster().list("pods", labelSelector=f"{JOB_NAME}={handle.id}"))
