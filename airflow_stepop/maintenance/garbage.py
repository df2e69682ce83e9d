"""Stored data that nothing needs any more: found by what is old, then by what refers to it.

Deleting is safe while tasks run, while others collect, and when it is cut short: what is found here can
come into use again in no way.

- *Results* lie in a folder for each job. One is kept while it is young, while its run goes on, and while an
  XCom or a record names its job. A record gets the reference before the XCom does, so records are read first.
- *Parts* lie in weeks (decision 0004). A week is kept until every job that could have been submitted in it is
  over.
- *Checkpoints* lie in a folder for each task instance, and are kept while it is young or may be tried again.
- *Jobs* of this host that their tasks have kept.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_stepop.core.naming import slug
from airflow_stepop.exceptions import StepopError
from airflow_stepop.inventory.database import (
    TaskKey,
    is_finished,
    raw_record,
    task_instances,
    unfinished_runs,
)
from airflow_stepop.inventory.targets import Complain, Job, Target, deployment, find_jobs
from airflow_stepop.inventory.xcoms import xcom_texts
from airflow_stepop.maintenance.orphans import DAY_S, Action, find_orphans
from airflow_stepop.stores.configured import configured_stores
from airflow_stepop.stores.paths import CHECKPOINTS, PARTS, RESULTS, WEEK, of_deployment
from airflow_stepop.waiting.deadlines import OVERDUE_FACTOR, OVERDUE_S

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store

JOB_NAME = re.compile(r"s-[a-z0-9-]+")
CLOCKS_S = DAY_S  # how far the clocks of workers, stores and this host may be apart
MIN_JOB_AGE_S = 600.0
DEPTH = {RESULTS: 7, CHECKPOINTS: 6}  # pieces of a path up to the folder that is deleted as one


class Kind(StrEnum):
    """What is collected."""

    RESULTS = "results"
    PARTS = "parts"
    CHECKPOINTS = "checkpoints"
    JOBS = "jobs of this host"


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs.

    :param place: the store, or the backend
    :param count: how many objects or files
    :param newest_at: when the last of them was written, seconds since the epoch
    """

    kind: Kind
    place: str
    name: str
    count: int
    size: int
    newest_at: float
    delete: Callable[[], None] = field(repr=False, compare=False)


@dataclass
class Folder:
    """What a listing has shown of one folder."""

    store: Store
    path: str
    count: int = 0
    size: int = 0
    newest_at: float = 0.0

    def as_garbage(self, kind: Kind) -> Garbage:
        delete = partial(self.store.delete_folder, self.path)
        return Garbage(kind, self.store.url, self.path, self.count, self.size, self.newest_at, delete)


@dataclass
class Marks:
    """What must stay.

    :param names: jobs that a record or an XCom names
    :param runs: (dag, run) that go on, as they are in paths
    :param tasks: (dag, run, task, map index) that are not finished, as they are in paths
    :param begun_at: when the oldest step began that still waits for its job
    """

    names: set[str] = field(default_factory=set)
    runs: set[tuple[str, ...]] = field(default_factory=set)
    tasks: set[tuple[str, ...]] = field(default_factory=set)
    begun_at: float = float("inf")


def find_garbage(*, now: float, retention_s: float, complain: Complain) -> list[Garbage]:
    """Return everything that nothing needs, oldest first. A store that fails does not hide the others.

    :raises StepopError: what Airflow refers to cannot be found out, so nothing may be deleted
    """
    folders: dict[str, list[Folder]] = {RESULTS: [], PARTS: [], CHECKPOINTS: []}
    for store in configured_stores():
        try:
            for top in folders:
                folders[top] += list_folders(store, top)
        except StepopError as error:
            complain(str(error))
    old = [folder for folder in folders[RESULTS] if now - folder.newest_at >= retention_s]
    marks = find_marks(old)
    garbage = [folder.as_garbage(Kind.RESULTS) for folder in old if not _is_marked(folder, marks)]
    week_end = min(now - max(retention_s, longest_job_s()), marks.begun_at) - CLOCKS_S
    garbage += [
        folder.as_garbage(Kind.PARTS) for folder in folders[PARTS] if _end_of_week(folder.path) <= week_end
    ]
    garbage += [
        folder.as_garbage(Kind.CHECKPOINTS)
        for folder in folders[CHECKPOINTS]
        if now - folder.newest_at >= retention_s and _pieces(folder.path) not in marks.tasks
    ]
    garbage += _kept_jobs(now, retention_s, complain)
    return sorted(garbage, key=lambda found: found.newest_at)


def list_folders(store: Store, top: str) -> Iterator[Folder]:
    """Yield the folders of this deployment below ``top`` that are kept or deleted as one.

    What does not lie as we lay it is somebody else's, and is not touched.
    """
    depth = DEPTH.get(top, 2)
    folders: dict[str, Folder] = {}
    for found in store.objects(top if top == PARTS else of_deployment(top, deployment())):
        pieces = found.path.split("/")
        if len(pieces) <= depth:
            continue
        path = "/".join(pieces[:depth])
        folder = folders.setdefault(path, Folder(store, path))
        folder.count += 1
        folder.size += found.size
        folder.newest_at = max(folder.newest_at, found.modified_at)
    yield from folders.values()


def find_marks(candidates: list[Folder]) -> Marks:
    """Return what must stay of ``candidates``, which were listed before.

    The order counts: the state of a task, its record, then the XComs.
    """
    wanted = {_pieces(folder.path)[:4] for folder in candidates}
    marks = Marks()
    for key, state in task_instances():
        pieces, is_live = _pieces_of(key), not is_finished(state)
        if is_live:
            marks.tasks.add(pieces)
        if is_live or pieces in wanted:
            _mark_record(key, is_live, marks)
    marks.runs = {(_slug(dag_id), _slug(run_id)) for dag_id, run_id in unfinished_runs()}
    if candidates:
        names = {_name(folder) for folder in candidates}
        for text in xcom_texts():
            marks.names |= names.intersection(JOB_NAME.findall(text))
    return marks


def _mark_record(key: TaskKey, is_live: bool, marks: Marks) -> None:
    record = raw_record(key)
    if record is None:
        return
    marks.names.update(JOB_NAME.findall(json.dumps(record)))
    if not is_live:
        return
    try:
        begun_at = float("inf") if record.get("collected") else float(record["started_at"])
    except (AttributeError, KeyError, TypeError, ValueError):  # whatever it is, a job may be behind it
        begun_at = 0.0
    marks.begun_at = min(marks.begun_at, begun_at)


def _is_marked(folder: Folder, marks: Marks) -> bool:
    return _name(folder) in marks.names or _pieces(folder.path)[:2] in marks.runs


def _name(folder: Folder) -> str:
    return folder.path.rpartition("/")[2]


def _pieces(path: str) -> tuple[str, ...]:
    """Return what follows the deployment: dag, run, task, map index, and the job for a result."""
    return tuple(path.split("/")[2:])


def _pieces_of(key: TaskKey) -> tuple[str, ...]:
    return tuple(_slug(text) for text in (key.dag_id, key.run_id, key.task_id, str(key.map_index)))


@lru_cache(maxsize=100_000)
def _slug(text: str) -> str:
    return slug(text, 60)


def longest_job_s() -> float:
    """Return how long a job may run that no record leads to any more, with a margin."""
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("stepop", "timeout", fallback=86400.0)) * OVERDUE_FACTOR + OVERDUE_S


def _end_of_week(path: str) -> float:
    try:
        monday = datetime.strptime(path.split("/")[1], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:  # not one of ours
        return float("inf")
    return (monday + WEEK).timestamp()


# --- jobs of this host


def _kept_jobs(now: float, retention_s: float, complain: Complain) -> Iterator[Garbage]:
    jobs = find_jobs([Target("local")], {}, complain)
    orphans = find_orphans(jobs, now=now, min_age_s=MIN_JOB_AGE_S, retention_s=retention_s, complain=complain)
    for orphan in orphans:
        if orphan.action is Action.DELETE:
            yield _job_folder(orphan.job)


def _job_folder(job: Job) -> Garbage:
    hook: Any = job.hook
    count, size = _measure(hook.folder / job.handle.id)
    ended_at = job.status.finished_at or job.found.created_at
    delete = partial(hook.delete, job.handle)
    return Garbage(Kind.JOBS, str(hook.folder), job.handle.name, count, size, ended_at, delete)


def _measure(folder: Path) -> tuple[int, int]:
    count = size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(parent, name)).st_size
                count += 1
    return count, size


# --- deleting


def delete(garbage: list[Garbage], complain: Complain) -> list[Garbage]:
    """Delete; return what was. One thing that cannot be deleted does not save the others."""
    done = []
    for one in garbage:
        try:
            one.delete()
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            complain(f"could not delete {one.name} of {one.place}: {error or type(error).__name__}")
        else:
            done.append(one)
    for store in configured_stores():
        _remove_empty_folders(store, time.time())
    return done


def _remove_empty_folders(store: Store, now: float) -> None:
    """Remove the folders of runs that have been empty for a day; an object store has none.

    Not at once: somebody may be about to write there.
    """
    parts = urlsplit(store.url)
    if parts.scheme != "file":
        return
    for top in (RESULTS, CHECKPOINTS):
        root = Path(unquote(parts.path)) / of_deployment(top, deployment())
        for parent, _, _ in os.walk(root, topdown=False):
            depth = len(Path(parent).relative_to(root).parts)
            with suppress(OSError):  # it is not empty, or somebody else was faster
                if depth >= 2 and now - os.stat(parent).st_mtime >= DAY_S:
                    os.rmdir(parent)
