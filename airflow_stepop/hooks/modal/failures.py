"""Classifies why a sandbox failed: category, summary and what to do. Called by ``status.py``.

Sources: the statuses of ``modal_proto``, https://modal.com/docs/guide/preemption,
https://modal.com/docs/guide/sandbox and texts of the service in public reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.failure_rules import Rule, failure_by
from airflow_stepop.hooks.modal import states

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.private import Result

_MEMORY = "raise memory of resource_settings, or settings.memory"
_IMAGE = (
    "check image= and its tag; for a private registry, name a Secret of Modal in settings.registry_secret"
)
_ANOTHER = "use an image with python3 in its PATH"

# status -> category, what happened, what to do
_ENDS = {
    states.TIMEOUT: (
        Category.TIMEOUT,
        "The step ran longer than its timeout, and Modal ended its sandbox",
        "raise timeout=, or do less",
    ),
    states.OOM_KILL: (Category.OOM, "The step ran out of memory", _MEMORY),
    states.THRASHING: (Category.OOM, "The step ran out of memory", _MEMORY),
    states.EVICTION: (
        Category.PREEMPTED,
        "The machine ran out of memory for all its sandboxes, and Modal took it away from the step",
        "the task tries again by itself; settings.memory reserves what the step needs",
    ),
    states.INTERNAL_FAILURE: (Category.INFRA, "Modal failed the sandbox", "see https://status.modal.com"),
    states.IDLE_TIMEOUT: (
        Category.BAD_CONFIG,
        "Modal ended the sandbox because it looked idle",
        "somebody has set an idle timeout for this sandbox; airflow-stepop sets none",
    ),
}
# A sandbox that did not begin
RULES = (
    Rule(
        r"(?i)\b(?:manifest unknown|not found: manifest|pull access denied|image pull|pulling image)",
        Category.IMAGE_PULL,
        hint=_IMAGE,
    ),
    Rule(
        r"(?i)(?:executable file not found|no such file or directory)",
        Category.BAD_CONFIG,
        "The image has no python3: {text}",
        _ANOTHER,
    ),
    Rule(r"(?i)\b(?:image|registry)\b", Category.IMAGE_PULL, hint=_IMAGE),
)
_BROKEN_START = (126, 127)


def failure_of(result: Result, *, is_ours: bool, has_gpu: bool, name: str = "") -> Failure | None:
    """Return why a sandbox ended, as the service says; ``None``: it did not fail, or its outcome says more.

    :param is_ours: we have ended it
    :param has_gpu: it may lose its machine
    :param name: of the job, which the service's text may contain
    """
    if result.status == states.TERMINATED:
        return _terminated(result, is_ours=is_ours, has_gpu=has_gpu)
    if result.status == states.INIT_FAILURE:
        return _not_begun(result, name)
    if result.status in _ENDS:
        category, summary, hint = _ENDS[result.status]
        said = f"{summary}: {result.text}" if result.text else summary
        return Failure(category, said, result.status, result.exit_code or None, hint)
    if result.status == states.FAILURE and result.exit_code in _BROKEN_START:
        summary = "The image could not run python3"
        return Failure(Category.BAD_CONFIG, summary, result.status, result.exit_code, _ANOTHER)
    return None


def lost(result: Result) -> Failure:
    """Return the failure of a sandbox that has ended with exit code 0 and has no outcome."""
    return Failure(
        Category.LOST,
        "The sandbox ended with exit code 0, and the runner left no outcome",
        result.status,
        result.exit_code,
        "see the log: the image may have an entrypoint that does not run our command",
    )


def vanished(container: str) -> Failure:
    """Return the failure of a sandbox that has started the step, and that nobody knows any more."""
    summary = f"The sandbox with the container {container} has started the step and left no outcome"
    return Failure(Category.LOST, summary, states.UNKNOWN, None, "its machine may have been taken away")


def _terminated(result: Result, *, is_ours: bool, has_gpu: bool) -> Failure:
    if is_ours:
        return Failure(Category.CANCELLED, "The job was stopped", result.status)
    said = f": {result.text}" if result.text else ""
    if has_gpu:
        summary = f"Modal took the machine away, or somebody ended the sandbox{said}"
        hint = "the task tries again by itself; save checkpoints, so that a step goes on where it stopped"
        return Failure(Category.PREEMPTED, summary, result.status, None, hint)
    hint = "see the sandbox in Modal's dashboard: somebody may have ended it, or stopped its App"
    return Failure(Category.INFRA, f"The sandbox was ended from outside{said}", result.status, None, hint)


def _not_begun(result: Result, name: str) -> Failure:
    text = result.text or "Modal gives no reason"
    found = failure_by(RULES, text, native_reason=result.status, names=[name])
    if found is not None:
        return found
    summary = f"The sandbox could not start: {text}"
    return Failure(Category.BAD_CONFIG, summary, result.status, None, "check image= and settings")
