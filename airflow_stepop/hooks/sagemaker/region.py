"""What one process knows of the training jobs of one account and region. The hook keeps a :class:`Region`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.listing import Listing
from airflow_stepop.hooks.common.log_cursors import LogEvent, visible
from airflow_stepop.hooks.common.receipts import receipt_text
from airflow_stepop.hooks.sagemaker.job_logs import KEPT_JOBS, JobLogs
from airflow_stepop.hooks.sagemaker.own_jobs import OwnJobs
from airflow_stepop.hooks.sagemaker.service import NAME_PART, Json, TrainingJobs
from airflow_stepop.hooks.sagemaker.status import status_of
from airflow_stepop.job import JobState, JobStatus, LogChunk
from airflow_stepop.stores.base import quote
from airflow_stepop.stores.paths import JOBS, job_path

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.job import Cursor, JobHandle, LogLine

KEPT_S = 31 * 86400.0  # jobs older than this are not found: a job lasts at most 30 days
JOB_NAME = re.compile(rf"{NAME_PART}([a-z0-9-]+-)?[0-9a-f]{{12}}")  # see core/naming.py


class Region:
    """The jobs, their states and their logs.

    :param clients: of the connection and the region
    """

    def __init__(self, clients: AwsClients) -> None:
        self.clients = clients
        self.jobs = TrainingJobs(clients)
        self._logs = JobLogs(clients)
        self._listing: Listing[Json] = Listing(
            self._changes, self.jobs.describe, is_over=_is_over, changed_at=_changed_at
        )
        # jobs that this process has seen running -> their last status, and the time of their last change
        self._seen: dict[str, tuple[JobStatus, float]] = {}
        self.own_jobs = OwnJobs(self.jobs.describe)

    # -- states

    def statuses(self, handles: Sequence[JobHandle], begin: float) -> dict[str, JobStatus | None]:
        """Return the status of each job, by its name; ``None`` for a job that the service does not know.

        :param begin: when the oldest of the jobs was submitted, in seconds since the epoch
        """
        views = self._listing.looks([handle.name for handle in handles], begin)
        return {handle.name: self._status(handle, views[handle.name]) for handle in handles}

    def status_now(self, handle: JobHandle) -> JobStatus | None:
        """Return the status of a job as it is now; ``None`` for a job that the service does not know."""
        return self._status(handle, self.jobs.describe(handle.name))

    def _status(self, handle: JobHandle, job: Json | None) -> JobStatus | None:
        if job is None or not self.own_jobs.is_own(handle, job):
            return None
        name = handle.name
        status, seen = status_of(job), self._seen.get(name)
        last = status, _changed_at(job)
        if seen is None or (seen[0].native, seen[1]) != (status.native, last[1]):
            self._logs.changed(name)
        if not status.state.is_terminal or seen is not None:
            self._note(name, last)
        elif self.is_deleted(job):
            return JobStatus(JobState.GONE, native="deleted")
        return status

    def _note(self, name: str, last: tuple[JobStatus, float]) -> None:
        while name not in self._seen and len(self._seen) >= KEPT_JOBS:  # the one that was seen first
            del self._seen[next(iter(self._seen))]
        self._seen[name] = last

    def is_deleted(self, job: Json) -> bool:
        """Return whether a terminal job is marked as deleted.

        A job that this process has seen running is not: only a job whose outcome was collected is deleted,
        and the process that collects it forgets that (see :meth:`delete`).
        """
        if job["TrainingJobName"] in self._seen:
            return False
        return self.jobs.is_deleted(str(job["TrainingJobArn"]))

    def delete(self, job: Json) -> None:
        """Mark a job as deleted."""
        self._seen.pop(job["TrainingJobName"], None)
        self.jobs.mark_as_deleted(str(job["TrainingJobArn"]))

    def _changes(self, since: float | None) -> Iterator[tuple[str, Json, float]]:
        for summary in self.jobs.changed_since(since):
            yield str(summary["TrainingJobName"]), summary, _changed_at(summary)

    # -- all jobs

    def found(self, labels: Mapping[str, str]) -> Iterator[tuple[Json, Json, str]]:
        """Yield each job with all of ``labels``: its summary, what its request says about it, and its
        instance.
        """
        nonce = labels.get("nonce")
        part = nonce_hash(nonce) if nonce else NAME_PART
        for summary in self.jobs.created_since(time.time() - KEPT_S, part):
            name = str(summary["TrainingJobName"])
            known = self.own_jobs.identity_of(summary) if JOB_NAME.fullmatch(name) else None
            if known is None or known.about is None or not matches(known.about["labels"], labels):
                continue
            if not _is_named_so(name, known.about):
                continue
            if not (_is_over(summary) and self.jobs.is_marked(str(summary["TrainingJobArn"]))):
                yield summary, known.about, known.instance

    # -- logs

    def logs(self, cursors: Mapping[str, Cursor]) -> dict[str, LogChunk]:
        """Return the new lines of each job that has some."""
        found: dict[str, LogChunk] = {}
        wanted = dict(cursors)
        seen = {name: self._seen[name][0] for name in cursors if name in self._seen}
        waiting = {name for name, status in seen.items() if status.state is JobState.PENDING}
        while wanted:
            read, wanted = self._logs.read(wanted, waiting), {}
            for name, (events, cursor) in read.items():
                lines, receipt = _lines(events), receipt_text(event.text for event in events)
                if lines or receipt is not None:
                    before = found.get(name)
                    found[name] = LogChunk(lines, cursor, receipt or (before.receipt if before else None))
                if not lines:  # nothing for people, and perhaps more behind it
                    wanted[name] = cursor
        return found

    def last_texts(self, name: str, count: int) -> list[str]:
        """Return at least the last ``count`` texts of a job's log, also what is not shown to people."""
        return [event.text for event in self._logs.last(name, count)[0]]

    def tail(self, name: str, count: int, since: Cursor) -> LogChunk:
        """Return the last ``count`` lines of a job after a cursor."""
        job = self.jobs.describe(name)
        ended_at = status_of(job).finished_at if job is not None else None
        # the receipt is one of the last lines, and is not shown
        events, cursor = self._logs.last(name, count + 1, since, ended_at)
        return LogChunk(_lines(events)[-count:], cursor, receipt_text(event.text for event in events))


def _lines(events: Sequence[LogEvent]) -> list[LogLine]:
    return visible((event.time_ms / 1000, event.text) for event in events)


def _is_named_so(name: str, known: Json) -> bool:
    """Return whether a job has the name and the input folder that belong to its labels.

    Whoever may create training jobs, perhaps in another region under the same name, could otherwise name the
    input of another job, which is deleted when ``sweep`` deletes the job.
    """
    labels = known["labels"]
    folders = job_path(labels, name), f"{JOBS}/{name}"  # the latter without a task: see places_of
    is_own_folder = known["inputs"].endswith(tuple(f"/{quote(folder)}" for folder in folders))
    return is_own_folder and name.endswith(f"-{nonce_hash(labels.get('nonce', ''))}")


def _changed_at(job: Json) -> float:
    return float(job["LastModifiedTime"].timestamp())


def _is_over(job: Json) -> bool:
    return status_of(job).state.is_terminal
