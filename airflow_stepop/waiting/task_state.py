"""Asks Airflow for the state of a task instance.

A worker or a trigger that is told to end calls this to learn whether the user ended the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def task_state(labels: Mapping[str, Any]) -> str | None:
    """Return the task instance's current state in Airflow, or ``None`` when Airflow has none. Blocks.

    :param labels: the task instance's dag_id, run_id, task_id and map_index
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    task_id, run_id, map_index = labels["task_id"], labels["run_id"], int(labels["map_index"])
    states: dict[str, dict[str, str | None]] = RuntimeTaskInstance.get_task_states(
        dag_id=labels["dag_id"], task_ids=[task_id], run_ids=[run_id], map_index=map_index
    )
    return states.get(run_id, {}).get(task_id if map_index < 0 else f"{task_id}_{map_index}")
