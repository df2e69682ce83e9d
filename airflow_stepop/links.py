"""The link from a task in Airflow's UI to its job in the service's console. Used by the operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from airflow_stepop.arguments import is_later
from airflow_stepop.registry import has_console

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class StepLink(BaseOperatorLink):
    """Opens the job in the console."""

    name = "Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the job's URL, which the operator sets after the submission.

        Airflow stores the URL whenever the task leaves a worker: when it defers, and when it ends.
        """
        return getattr(operator, "job_url", None) or ""


class OperatorLinks(property):
    """The property ``operator_extra_links`` of an operator: see :func:`links_of`.

    Airflow hands the property itself to a mapped operator. It evaluates the property when it stores the DAG.
    If an instance of a mapped task cannot be created, for example because an argument is wrong, it iterates
    over the property instead. Such an instance has no link.
    """

    def __iter__(self) -> Iterator[StepLink]:
        return iter(())


def links_of(task: Any) -> tuple[StepLink, ...]:
    """Return the links of a task; none where the link would be empty.

    Airflow asks when it stores the DAG: its log page has a heading for every task with links, also without a
    URL. It asks again when the task leaves a worker, and stores what it gets as an XCom.

    :param task: an operator, or Airflow's mapped operator of one
    """
    is_running = getattr(task, "_session", None) is not None
    is_wanted = bool(task.job_url) if is_running else _may_have_console(task)
    return (StepLink(),) if is_wanted else ()


def _may_have_console(task: Any) -> bool:
    """Return whether the backend may have a console, as far as it is known now. No connection is read."""
    given: Mapping[str, Any] = getattr(task, "partial_kwargs", None) or vars(task)
    backend = conf.get("stepop", "backend_override", fallback="") or given.get("backend")
    if backend is None:
        is_open = given.get("conn_id") is not None or hasattr(task, "partial_kwargs")
        backend = None if is_open else conf.get("stepop", "default_backend", fallback="") or "local"
    return backend is None or is_later(backend) or has_console(backend)
