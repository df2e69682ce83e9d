"""The link from a task in Airflow's UI to its job in the service's console. Used by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class StepLink(BaseOperatorLink):
    """Opens the job in the console; empty if the backend has no console."""

    name = "Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the job's URL, which the operator sets after the submission.

        Airflow stores the URL whenever the task leaves a worker: when it defers, and when it ends.
        """
        return getattr(operator, "job_url", None) or ""
