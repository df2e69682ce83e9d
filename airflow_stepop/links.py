"""The link from a task to its job in the service's console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class StepLink(BaseOperatorLink):
    """Opens the job; empty where the backend has no console."""

    name = "Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL that the operator learnt; Airflow stores it whenever the task leaves a worker."""
        return getattr(operator, "job_url", None) or ""
