"""What ``[stepop] backend_override`` leaves out of a task. Called by the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.lifecycle.interfaces import Task


def warn_of_override(operator: Task, backend: str) -> None:
    """Log which arguments of the task do not count, because the step runs on another backend.

    :param backend: the backend that ``[stepop] backend_override`` names
    """
    unused = []
    if operator.settings:
        given = operator.settings
        names = sorted(given if isinstance(given, Mapping) else given.model_fields_set)
        unused.append(f"its settings are not used ({', '.join(names)})")
    if operator.conn_id is not None:
        unused.append(f"its connection {operator.conn_id!r} and the defaults in it are not used")
    if unused:
        operator.log.warning(
            "This step was written for %s and runs on %s: %s ([stepop] backend_override)",
            operator.backend or f"the connection {operator.conn_id}",
            backend,
            "; ".join(unused),
        )
