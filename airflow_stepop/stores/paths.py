"""The layout of a store: every path that is written there.

::

    parts/<week>/<sha256>    arguments and code that are too large for a request, named by their content
    results/<deployment>/<dag>/<run>/<task>/<map>/<job>/<segment>
                             results; they are kept when the job is deleted
    jobs/<deployment>/<dag>/<run>/<task>/<map>/<job>/...
                             input of a job on a service that reads a bucket; it goes with the job
    checkpoints/<deployment>/<dag>/<run>/<task>/<map>/<digest of the arguments>/...
                             checkpoints that a step saved for its next try

The payload and the lifecycle write below these paths. ``maintenance/garbage.py`` deletes objects that nothing
refers to any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from airflow_stepop.core.naming import slug

PARTS, RESULTS, CHECKPOINTS, JOBS = "parts", "results", "checkpoints", "jobs"
WEEK = timedelta(days=7)
_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def part_path(sha256: str, at: float) -> str:
    """Return the path of a part that is submitted at ``at``, in seconds since the epoch.

    A part that is needed again in a later week is stored again, in the folder of that week. So only jobs of
    one week use a folder, and the whole folder can be deleted while other jobs are submitted. See decision
    0004.
    """
    weeks = (datetime.fromtimestamp(at, UTC) - _MONDAY) // WEEK
    return f"{PARTS}/{(_MONDAY + weeks * WEEK):%Y-%m-%d}/{sha256}"


def result_path(labels: Mapping[str, str], job_name: str) -> str:
    """Return the folder for the results of one job: readable names, made unique by the job's name."""
    return f"{_task_path(RESULTS, labels)}/{job_name}"


def job_path(labels: Mapping[str, str], job_name: str) -> str:
    """Return the folder for the staged input of one job: see ``hooks/common/staging.py``."""
    return f"{_task_path(JOBS, labels)}/{job_name}"


def checkpoint_path(labels: Mapping[str, str]) -> str:
    """Return the folder for the checkpoints of one task instance. All of its tries share the folder."""
    return _task_path(CHECKPOINTS, labels)


def _task_path(top: str, labels: Mapping[str, str]) -> str:
    folders = [slug(labels.get(key, ""), 60) for key in ("dag_id", "run_id", "task_id", "map_index")]
    return "/".join([of_deployment(top, labels.get("deployment", "")), *folders])


def of_deployment(top: str, deployment: str) -> str:
    """Return the folder of one Airflow deployment below ``top``: several deployments may share a store."""
    return f"{top}/{slug(deployment, 60) if deployment else '_'}"  # a slug is never an underscore


def is_plain_name(path: str) -> bool:
    """Return whether this package may have written an object of this name."""
    return path.isprintable() and not {"", ".", ".."} & set(path.split("/"))
