"""Every path name in a store.

::

    parts/<week>/<sha256>    arguments and code too large for a request, by content
    results/<deployment>/<dag>/<run>/<task>/<map>/<job>/<segment>
                             results; they outlive the job that made them
    checkpoints/<deployment>/<dag>/<run>/<task>/<map>/<digest of the arguments>/...
                             what a step left for its next try

``maintenance/garbage.py`` deletes them when nothing needs them any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from airflow_stepop.core.naming import slug

PARTS, RESULTS, CHECKPOINTS = "parts", "results", "checkpoints"
WEEK = timedelta(days=7)
_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def part_path(sha256: str, at: float) -> str:
    """Return where a part that is submitted at ``at`` lies.

    One that is needed again in another week is stored again. So what a week holds is never made young again,
    and a week as a whole can be deleted while others submit: see decision 0004.
    """
    weeks = (datetime.fromtimestamp(at, UTC) - _MONDAY) // WEEK
    return f"{PARTS}/{(_MONDAY + weeks * WEEK):%Y-%m-%d}/{sha256}"


def result_path(labels: Mapping[str, str], job_name: str) -> str:
    """Return the folder for the results of one job: readable names first, uniqueness by the job's name."""
    return f"{_task_path(RESULTS, labels)}/{job_name}"


def checkpoint_path(labels: Mapping[str, str]) -> str:
    """Return the folder for the checkpoints of one task instance, whatever try it is in."""
    return _task_path(CHECKPOINTS, labels)


def _task_path(top: str, labels: Mapping[str, str]) -> str:
    folders = [slug(labels.get(key, ""), 60) for key in ("dag_id", "run_id", "task_id", "map_index")]
    return "/".join([of_deployment(top, labels.get("deployment", "")), *folders])


def of_deployment(top: str, deployment: str) -> str:
    """Return the folder of one Airflow deployment below ``top``: several may have one store."""
    return f"{top}/{slug(deployment, 60) if deployment else '_'}"  # no slug is an underscore
