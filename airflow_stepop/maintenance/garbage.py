"""Find and delete stored data that nothing needs any more; ``airflow stepop gc`` calls this module.

How it works: list the folders in every configured store, also in those that connections name. Select the
folders that are old enough, and exclude each folder that an XCom, a record or an unfinished DAG run still
needs. Deleting is safe while tasks run, while another ``gc`` runs, and if this process is interrupted,
because garbage found here can never be used again.

- *Results* are in one folder per job. A folder is kept while it is younger than the retention, while its DAG
  run is unfinished, and while an XCom or a record names its job. A record gets the reference before the XCom
  does, so records are read first.
- *Staged input* (``jobs/...``, and :meth:`StepHook.leftovers` of a backend without a store) is in one folder
  per job. A job's ``delete`` removes it. What is left is kept while it is younger than the retention and than
  the longest job, while its DAG run is unfinished, and while a record names its job whose outcome was not
  collected.
- *Parts* (arguments and code) are in one folder per week (decision 0004). A week is kept until every job that
  could have been submitted in this week has ended.
- *Checkpoints* are in one folder per task instance, also those of :meth:`StepHook.leftovers`. A folder is
  kept while it is younger than the retention, or while its task instance may be retried.
- *Jobs* of the backend ``local`` on this host that have ended and that ``find_orphans`` wants to delete.
- *Requirements* that steps installed on this host. A set is kept while a step that uses it may still run, and
  until its last use is older than the retention.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.naming import slug
from airflow_stepop.core.tree import delete_empty_folders
from airflow_stepop.exceptions import IntegrityError, StepopError
from airflow_stepop.inventory.database import (
    TaskKey,
    is_finished,
    raw_record,
    task_instances,
    unfinished_runs,
)
from airflow_stepop.inventory.places import all_stores
from airflow_stepop.inventory.targets import (
    Complain,
    Job,
    Target,
    deployment,
    find_jobs,
    usable_targets,
)
from airflow_stepop.inventory.xcoms import xcom_texts
from airflow_stepop.maintenance.orphans import DAY_S, Action, find_orphans
from airflow_stepop.maintenance.requirements_cache import CachedSet, cached_sets, measure
from airflow_stepop.stores.folder import FolderStore
from airflow_stepop.stores.paths import CHECKPOINTS, JOBS, PARTS, RESULTS, WEEK, of_deployment
from airflow_stepop.waiting.deadlines import OVERDUE_FACTOR, OVERDUE_S

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store

JOB_NAME = re.compile(r"s-[a-z0-9-]+")
CLOCKS_S = DAY_S  # largest allowed difference between the clocks of workers, stores and this host
MIN_JOB_AGE_S = 600.0
DEPTH = {
    RESULTS: 7,
    CHECKPOINTS: 6,
    JOBS: 7,
}  # number of path components of a folder that is deleted as a whole


class Kind(StrEnum):
    """The kinds of garbage."""

    RESULTS = "results"
    PARTS = "parts"
    CHECKPOINTS = "checkpoints"
    STAGED = "staged input"
    JOBS = "jobs of this host"
    REQUIREMENTS = "requirements of this host"


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs any more.

    :param place: the address of the store, or the folder of the local backend
    :param name: the path in the store, or the job's name
    :param count: number of objects or files in the folder
    :param size: their total size in bytes
    :param newest_at: time of the last write in seconds since the epoch; for a job, the time of its end
    :param delete: deletes the folder
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
    """The totals of one folder, summed up from a listing of its store, or of a backend.

    :param place: the address of the store, or the backend with its connection
    :param remove: deletes the folder
    """

    place: str
    path: str
    remove: Callable[[], None]
    count: int = 0
    size: int = 0
    newest_at: float = 0.0

    def as_garbage(self, kind: Kind) -> Garbage:
        return Garbage(kind, self.place, self.path, self.count, self.size, self.newest_at, self.remove)


@dataclass
class Marks:
    """The references that protect data from deletion.

    :param names: names of jobs that a record or an XCom refers to
    :param uncollected: names of jobs that a record refers to whose outcome was not collected
    :param runs: (dag, run) of unfinished runs, as path components
    :param tasks: (dag, run, task, map index) of unfinished task instances, as path components
    :param unreadable: the same of task instances whose record is no JSON: nothing is known of their jobs
    :param begun_at: when the oldest uncollected step of an unfinished task instance began, seconds since the
        epoch
    """

    names: set[str] = field(default_factory=set)
    uncollected: set[str] = field(default_factory=set)
    runs: set[tuple[str, ...]] = field(default_factory=set)
    tasks: set[tuple[str, ...]] = field(default_factory=set)
    unreadable: set[tuple[str, ...]] = field(default_factory=set)
    begun_at: float = float("inf")


def find_garbage(*, now: float, retention_s: float, complain: Complain) -> list[Garbage]:
    """Return all garbage, oldest first.

    :param now: the current time, in seconds since the epoch
    :param retention_s: how many seconds unreferenced data are kept
    :param complain: called with a message for each part of a store that cannot be listed; the others are
        still searched
    :raises StepopError: a record or an XCom cannot be read, so nothing may be deleted
    """
    folders: dict[str, list[Folder]] = {RESULTS: [], PARTS: [], CHECKPOINTS: [], JOBS: []}
    for store in all_stores(complain):
        for top in folders:
            try:
                folders[top] += list_folders(store, top)
            except StepopError as error:
                complain(str(error))
        for text in store.skipped:
            complain(f"skipped in {store}: {text}")
    for folder in list_leftovers(complain):
        folders[_top(folder.path)].append(folder)
    old = [folder for folder in folders[RESULTS] if now - folder.newest_at >= retention_s]
    longest_s = max(retention_s, longest_job_s())
    staged = [folder for folder in folders[JOBS] if now - folder.newest_at >= longest_s]
    marks = find_marks(old, staged)
    garbage = [folder.as_garbage(Kind.RESULTS) for folder in old if not _is_marked(folder, marks)]
    garbage += [folder.as_garbage(Kind.STAGED) for folder in staged if not _is_awaited(folder, marks)]
    last_used = min(now - longest_s, marks.begun_at) - CLOCKS_S
    garbage += [
        folder.as_garbage(Kind.PARTS) for folder in folders[PARTS] if _end_of_week(folder.path) <= last_used
    ]
    garbage += [
        folder.as_garbage(Kind.CHECKPOINTS)
        for folder in folders[CHECKPOINTS]
        if now - folder.newest_at >= retention_s and _pieces(folder.path) not in marks.tasks
    ]
    garbage += _kept_jobs(now, retention_s, complain)
    garbage += [_as_garbage(found) for found in cached_sets() if found.used_at <= last_used]
    return sorted(garbage, key=lambda found: found.newest_at)


def list_folders(store: Store, top: str) -> Iterator[Folder]:
    """Yield the folders of this deployment below ``top`` that are kept or deleted as a whole.

    Objects at other depths than those of this package's layout belong to others and are skipped.
    """
    depth = DEPTH.get(top, 2)
    folders: dict[str, Folder] = {}
    for found in store.objects(top if top == PARTS else of_deployment(top, deployment())):
        pieces = found.path.split("/")
        if len(pieces) <= depth:
            continue
        path = "/".join(pieces[:depth])
        folder = folders.setdefault(path, Folder(store.url, path, partial(store.delete_folder, path)))
        folder.count += 1
        folder.size += found.size
        folder.newest_at = max(folder.newest_at, found.modified_at)
    yield from folders.values()


def list_leftovers(complain: Complain) -> Iterator[Folder]:
    """Yield the staged input and the checkpoints that backends keep outside of the stores.

    Those of other deployments are left out.

    :param complain: called with a message for each connection that fails
    """
    own = {top: f"{of_deployment(top, deployment())}/" for top in (JOBS, CHECKPOINTS)}
    for target in usable_targets(complain):
        try:
            found = list(target.hook.leftovers())
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            complain(f"what jobs have left at {target} cannot be listed: {error or type(error).__name__}")
            continue
        for one in found:
            top = _top(one.path)
            if top in own and one.path.startswith(own[top]) and len(one.path.split("/")) == DEPTH[top]:
                yield Folder(str(target), one.path, one.delete, one.count, one.size, one.modified_at)


def _top(path: str) -> str:
    return path.partition("/")[0]


def find_marks(results: list[Folder], staged: list[Folder]) -> Marks:
    """Return the references that protect some of the folders. List the folders before this call.

    The order of reading matters: first the state of a task instance, then its record, then the XComs. A task
    writes its record before its XCom, so no reference is missed.
    """
    wanted = {_pieces(folder.path)[:4] for folder in [*results, *staged]}
    marks = Marks()
    for key, state in task_instances():
        pieces, is_live = _pieces_of(key), not is_finished(state)
        if is_live:
            marks.tasks.add(pieces)
        if is_live or pieces in wanted:
            _mark_record(key, is_live, marks)
    marks.runs = {(_slug(dag_id), _slug(run_id)) for dag_id, run_id in unfinished_runs()}
    if results:
        names = {_name(folder) for folder in results}
        for text in xcom_texts():
            marks.names |= names.intersection(JOB_NAME.findall(text))
    return marks


def _mark_record(key: TaskKey, is_live: bool, marks: Marks) -> None:
    try:
        record = raw_record(key)
    except IntegrityError:  # somebody has damaged it: what is of this task stays, and the rest is collected
        marks.unreadable.add(_pieces_of(key))
        marks.begun_at = 0.0 if is_live else marks.begun_at
        return
    if record is None:
        return
    names = JOB_NAME.findall(json.dumps(record))
    marks.names.update(names)
    if not (isinstance(record, dict) and record.get("collected")):
        marks.uncollected.update(names)
    if not is_live:
        return
    try:
        begun_at = float("inf") if record.get("collected") else float(record["started_at"])
    except (AttributeError, KeyError, TypeError, ValueError):  # a damaged record may still belong to a job
        begun_at = 0.0
    marks.begun_at = min(marks.begun_at, begun_at)


def _is_marked(folder: Folder, marks: Marks) -> bool:
    pieces = _pieces(folder.path)
    return _name(folder) in marks.names or pieces[:2] in marks.runs or pieces[:4] in marks.unreadable


def _is_awaited(folder: Folder, marks: Marks) -> bool:
    """Return whether the job of a folder with staged input may still run, or may be started."""
    pieces = _pieces(folder.path)
    return _name(folder) in marks.uncollected or pieces[:2] in marks.runs or pieces[:4] in marks.unreadable


def _name(folder: Folder) -> str:
    return folder.path.rpartition("/")[2]


def _pieces(path: str) -> tuple[str, ...]:
    """Return the path components after the deployment: dag, run, task, map index and, for a result, job."""
    return tuple(path.split("/")[2:])


def _pieces_of(key: TaskKey) -> tuple[str, ...]:
    return tuple(_slug(text) for text in (key.dag_id, key.run_id, key.task_id, str(key.map_index)))


@lru_cache(maxsize=100_000)
def _slug(text: str) -> str:
    return slug(text, 60)


def longest_job_s() -> float:
    """Return how many seconds a job without a record may run: ``[stepop] timeout`` with a margin."""
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("stepop", "timeout", fallback=86400.0)) * OVERDUE_FACTOR + OVERDUE_S


def _end_of_week(path: str) -> float:
    try:
        monday = datetime.strptime(path.split("/")[1], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:  # not a folder of this package
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
    count, size = measure(hook.folder / job.handle.id)
    ended_at = job.status.finished_at or job.found.created_at
    delete = partial(hook.delete, job.handle)
    return Garbage(Kind.JOBS, str(hook.folder), job.handle.name, count, size, ended_at, delete)


def _as_garbage(found: CachedSet) -> Garbage:
    place, name = str(found.path.parent), found.path.name
    return Garbage(Kind.REQUIREMENTS, place, name, found.count, found.size, found.used_at, found.delete)


# --- deleting


def delete(garbage: list[Garbage], complain: Complain) -> list[Garbage]:
    """Delete garbage; return the deleted part. A failed deletion is reported and does not stop the rest."""
    done = []
    for one in garbage:
        try:
            one.delete()
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            complain(f"could not delete {one.name} of {one.place}: {error or type(error).__name__}")
        else:
            done.append(one)
    for store in all_stores(lambda text: None):  # find_garbage has reported mistakes
        _remove_empty_folders(store, time.time())
    return done


def _remove_empty_folders(store: Store, now: float) -> None:
    """Remove folders of runs that have been empty for a day. Only folder stores have empty folders.

    Younger empty folders stay, because a step may be about to write into one.
    """
    if isinstance(store, FolderStore):
        for top in (RESULTS, CHECKPOINTS, JOBS):
            path = of_deployment(top, deployment())
            delete_empty_folders(store.folder, path, depth=2, before=now - DAY_S)
