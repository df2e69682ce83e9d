"""The link from a task to its job in the service's console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from airflow_stepop.arguments import is_later

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class StepLink(BaseOperatorLink):
    """Opens the job; empty while there is none."""

    name = "Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL that the operator learnt; Airflow stores it whenever the task leaves a worker."""
        return getattr(operator, "job_url", None) or ""


def links_of(operator: Any) -> tuple[StepLink, ...]:
    """Return the links of a step: none where its backend has no console.

    Airflow shows a heading and stores an XCom for each link that a task has, with or without a URL.

    :param operator: the operator, or Airflow's stand-in for a mapped one
    """
    return (StepLink(),) if _may_have_console(operator) else ()


def _may_have_console(operator: Any) -> bool:
    """Return whether the step's backend gives URLs, or is not known before the task runs."""
    from airflow_stepop.exceptions import StepopError
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.registry import hook_class

    arguments = getattr(operator, "partial_kwargs", None)
    if arguments is not None and not isinstance(operator.expand_input.value, Mapping):  # expand_kwargs()
        return True
    arguments = vars(operator) if arguments is None else {**operator.expand_input.value, **arguments}
    backend = conf.get("stepop", "backend_override", fallback="") or arguments.get("backend")
    if backend is None and arguments.get("conn_id") is None:
        backend = conf.get("stepop", "default_backend", fallback="local")
    if not isinstance(backend, str) or is_later(backend):
        return True
    try:
        return hook_class(backend).link is not StepHook.link
    except StepopError:  # not here, perhaps on the worker
        return True
