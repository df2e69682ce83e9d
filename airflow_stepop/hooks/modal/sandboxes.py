"""What one process knows of the sandboxes of one App: their states and their logs. The hook keeps it.

**States:** A poll lists the sandboxes that run, page by page. A sandbox that the list does not show is asked
for by its id, since a list may be late: absent is not ended. So is one whose log has the receipt, since the
list of many sandboxes is not asked for often. When a sandbox has ended, its folder in the
Volume decides: whether there is an outcome, whether we have ended it, and whether the step was collected and
the folder deleted. After that, the status is final, and costs no more requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import (
    IntegrityError,
    OutcomeLostError,
    OutcomeNotReadyError,
    StepConfigError,
    StoreError,
)
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.receipts import is_of_runner, parse_receipt, receipt_of
from airflow_stepop.hooks.modal import cost, states
from airflow_stepop.hooks.modal.job_logs import JobLogs
from airflow_stepop.hooks.modal.log_text import Position
from airflow_stepop.hooks.modal.outcome import has_outcome, outcome_of, result_in, was_stopped
from airflow_stepop.hooks.modal.private import Seen
from airflow_stepop.hooks.modal.request import OUT, folder_of_job
from airflow_stepop.hooks.modal.service import Service, is_container
from airflow_stepop.hooks.modal.status import ended_status, is_success, running_status
from airflow_stepop.hooks.modal.tags import JOB, RESULTS, labels_of, selector
from airflow_stepop.hooks.modal.volume import CANCELLED, CHECKPOINT_PARTS, JOB_PARTS, folders_below
from airflow_stepop.job import JobState, JobStatus, Leftover, LogChunk
from airflow_stepop.runner.protocol import EXIT_DUPLICATE, EXIT_NO_OUTCOME, STARTED
from airflow_stepop.stores.paths import CHECKPOINTS, JOBS

if TYPE_CHECKING:
    from airflow_stepop.connections.modal import ModalAccount
    from airflow_stepop.hooks.common.receipts import Receipt
    from airflow_stepop.hooks.modal.private import Result
    from airflow_stepop.hooks.modal.volume import VolumeFiles
    from airflow_stepop.job import Cursor, JobHandle, OutcomeReport

FEW = 3  # so many sandboxes, or fewer, are asked for by their ids
KEPT_JOBS = 20_000
MARKER_BYTES = 1 << 16
OUTCOME_S = 60.0  # an outcome may reach the Volume so long after the end of the sandbox
RECEIPT_S, PAUSE_S = 10.0, 0.25  # a receipt may reach the log so long after the end
RECEIPT_LIMIT_S, RECEIPT_LINES = 900.0, 50  # ... at most, and so many last lines are searched for it
KEPT_S = 31 * 86400.0  # older sandboxes are not found: one lasts at most a day


@dataclass(frozen=True)
class Job:
    """One sandbox and the data of its step.

    :param id: of the sandbox
    :param folder: of the job, in the Volume
    :param begin: when it was submitted, in seconds since the epoch
    :param usd_per_s: what its request costs at least, in US dollars per second; 0.0: not known
    """

    id: str
    name: str
    nonce: str
    folder: str
    begin: float
    usd_per_s: float = 0.0


def is_own_folder(job: Job) -> bool:
    """Return whether the folder of a job is its own: a sandbox of somebody else may name any in its tags."""
    first, *others = job.folder.split("/")
    own = [job.name, nonce_hash(job.nonce)]
    return first == JOBS and others[-2:] == own and not {"", ".", ".."} & set(others)


def own_folder(job: Job) -> str:
    """Return the folder of a job in the Volume, for its deletion.

    :raises StoreError: it is not the folder of this job
    """
    if not is_own_folder(job):
        text = f"refused to delete {job.folder} of the Volume: it is not the folder of the job {job.name}"
        raise StoreError(text)
    return job.folder


class Sandboxes:
    """The sandboxes of one App: see :class:`.service.Service`."""

    def __init__(self, account: ModalAccount, environment: str, app_name: str) -> None:
        self.service = Service(account, environment, app_name)
        self._logs = JobLogs(self.service)
        self._final: dict[str, JobStatus] = {}  # id -> the status that stays
        self._ended_at: dict[str, float] = {}  # id -> when this process has noticed the end
        self._codes: dict[str, int] = {}  # id -> exit code of one that has ended
        self._has_receipt: set[str] = set()
        self._is_ours: set[str] = set()  # those that this process has ended
        self._winners: dict[str, str] = {}  # id of one that ran nothing -> that of the one that ran the step

    @cached_property
    def scope(self) -> str:
        """The workspace and the environment: ``acme/main``; without a name, the workspace's default one."""
        return f"{self.service.workspace}/{self.service.environment}"

    # -- states

    def statuses(self, jobs: Sequence[Job]) -> dict[str, JobStatus | None]:
        """Return the status of each job, by the id of its sandbox; ``None``: the service does not know it."""
        still_open = [job for job in jobs if job.id not in self._final]
        running = self.service.running() if len(still_open) > FEW else {}
        found: dict[str, JobStatus | None] = {}
        for job in jobs:
            seen = running.get(job.id)
            if job.id in self._final:
                found[job.id] = self._final[job.id]
            elif seen is not None and job.id not in self._has_receipt:  # else it ends now
                found[job.id] = running_status(seen, bool(seen.task_id) or self._has_task(job))
            else:
                found[job.id] = self.status_now(job)
        return found

    def status_now(self, job: Job) -> JobStatus | None:
        """Return the status of a job as it is now; ``None``: the service does not know its sandbox."""
        if job.id in self._final:
            return self._final[job.id]
        seen = self.service.look(job.id)
        if seen is None:
            return None
        if seen.result is None:
            return running_status(seen, self._has_task(job))
        winner = self._winner(job, seen.result)
        if winner is None:
            return self._end(job, seen)
        status = self.status_now(winner)
        if winner.id in self._final:
            self._final[job.id] = self._final[winner.id]
        return status

    def _winner(self, job: Job, result: Result) -> Job | None:
        """Return the sandbox that has run the step in place of one that ran nothing, by the runner's marker.

        The client sends a create again when the answer was lost. If the first sandbox has ended by then, its
        name is free, and a second one begins.
        """
        if job.id not in self._winners and result.exit_code == EXIT_DUPLICATE:
            try:
                task = self._marked(job.folder)
            except (IntegrityError, StoreError):  # somebody has changed it
                task = None
            others = self.service.ended(job.nonce) if task is not None else []
            found = next((one.id for one in others if one.task_id == task), task)
            if found is not None:
                self._winners[job.id] = found
        return self._led(job) if job.id in self._winners else None

    def _led(self, job: Job) -> Job:
        """Return the sandbox that has run the step of a job: most often its own."""
        return replace(job, id=self._winners.get(job.id, job.id))

    def _has_task(self, job: Job) -> bool:
        return bool(self.service.task_of(job.id))

    def _end(self, job: Job, seen: Seen) -> JobStatus:
        """Return the status of a sandbox that has ended."""
        noticed = self._ended_at.setdefault(job.id, time.time())
        self._codes[job.id] = seen.result.exit_code if seen.result is not None else 0
        entries = self.service.files.entries(job.folder)
        if entries is None:
            return JobStatus(JobState.GONE, native="deleted")
        names = {entry.path.rpartition("/")[2] for entry in entries}
        times = next((one for one in self.service.ended(job.nonce) if one.id == job.id), seen)
        seen = replace(times, name=job.name, result=seen.result)
        has = job.id in self._has_receipt or (OUT in names and has_outcome(self.service.files, job.folder))
        if seen.result is not None and seen.result.status == states.UNKNOWN:
            seen = replace(seen, result=result_in(self.service.files, job.folder) if has else None)
        ended_at = seen.finished_at or noticed
        ahead_s = max(job.begin - seen.created_at, 0.0) if seen.created_at else 0.0  # of the service's clock
        if not has and is_success(seen) and time.time() - ended_at - ahead_s < OUTCOME_S:
            return running_status(seen, has_task=True)  # the outcome may come a little later
        is_ours = job.id in self._is_ours or CANCELLED in names
        status = ended_status(seen, is_ours=is_ours, has_outcome=has)
        usage = {**status.usage, **cost.least(status.usage, job.usd_per_s)}
        status = replace(status, finished_at=ended_at, usage=usage)
        while len(self._final) >= KEPT_JOBS:
            del self._final[next(iter(self._final))]
        self._final[job.id] = status
        return status

    # -- the end of a job

    def cancel(self, job: Job) -> None:
        """Ask the service to end a sandbox, and note that it was us. An ended or unknown one is no error."""
        seen = self.service.look(job.id)
        if seen is None or seen.result is not None:
            return
        self._is_ours.add(job.id)
        self.service.files.put_new(f"{job.folder}/{CANCELLED}", b"")
        self.service.terminate(job.id)

    def outcome(self, handle: JobHandle, job: Job, results: str, status: JobStatus) -> OutcomeReport:
        """Return the outcome of a job that has ended.

        :raises OutcomeLostError: it left none
        :raises OutcomeNotReadyError: it may still come
        """
        handed, job = receipt_of(handle), self._led(job)
        is_handed = handed is not None and is_of_runner(handed, job.nonce)
        receipt = handed if is_handed else self._receipt(job)
        is_in_receipt = receipt is not None and receipt.outcome is not None
        if self._codes.get(job.id) == EXIT_NO_OUTCOME and not is_in_receipt:
            raise OutcomeLostError(f"{handle} left no outcome: the runner could not write it")
        if receipt is not None:
            found = outcome_of(handle, receipt, self.service.files, job.folder, results)
            return replace(found, usage=cost.billed(self.service, job.nonce, job.begin, status.usage))
        ended_at = status.finished_at or self._ended_at.get(job.id) or time.time()
        late_s = time.time() - ended_at
        if self._may_have_receipt(job, status, late_s):
            raise OutcomeNotReadyError(f"the receipt of {handle} is not in the log of its sandbox")
        if status.state is JobState.SUCCEEDED or late_s < RECEIPT_S:
            raise OutcomeNotReadyError(f"the receipt of {handle} is not in the log of its sandbox")
        raise OutcomeLostError(f"{handle} left no outcome in the log of its sandbox")

    def _may_have_receipt(self, job: Job, status: JobStatus, late_s: float) -> bool:
        """Return whether a job with an outcome may still get its receipt.

        A sandbox that the service ends may have no time for the receipt. If its outcome only says that a
        signal stopped the step, the reason of the service says more.
        """
        files = self.service.files
        if late_s >= RECEIPT_LIMIT_S or not has_outcome(files, job.folder):
            return False
        return status.failure is None or late_s < RECEIPT_S or not was_stopped(files, job.folder)

    def _receipt(self, job: Job) -> Receipt | None:
        text = self.tail(job, RECEIPT_LINES, None).receipt
        return parse_receipt(text) if text is not None else None

    def has_succeeded(self, job: Job) -> bool:
        status = self.status_now(job)
        return status is not None and status.state is JobState.SUCCEEDED

    def forget(self, job: Job) -> None:
        """Forget a job whose folder was deleted."""
        for known in (self._final, self._ended_at, self._codes, self._winners):
            known.pop(job.id, None)
        self._has_receipt.discard(job.id)

    # -- all jobs

    def found(self, labels: Mapping[str, str]) -> Iterator[tuple[Seen, dict[str, str], str]]:
        """Yield each sandbox with all of ``labels``, its own labels, and the place of its results.

        Those whose folder was deleted are left out.
        """
        for one in self.service.all_with(selector(labels), time.time() - KEPT_S):
            seen = self.service.with_tags(one)
            own = labels_of(seen.tags)
            if own is None or not matches(own, labels):
                continue
            results, name = own.pop(RESULTS, ""), own.pop(JOB, seen.name)
            if seen.name not in (name, ""):  # somebody has copied the tags of a job
                continue
            if (
                seen.result is None
                or self.service.files.entries(folder_of_job(own, name, own["nonce"])) is not None
            ):
                yield replace(seen, name=name), own, results

    def found_job(self, name: str, nonce: str, folder: str) -> tuple[Seen, dict[str, str], str] | None:
        """Return what :meth:`found` yields for one job; ``None``: there is no such job, or it was deleted."""
        try:
            sandbox = self.service.find(name, nonce)
        except StepConfigError:  # somebody else has a sandbox of this name
            return None
        if sandbox is None:
            return None
        own = labels_of(sandbox.tags)
        if own is None:
            return None
        results, _ = own.pop(RESULTS, ""), own.pop(JOB, "")
        if sandbox.result is not None and self.service.files.entries(folder) is None:
            return None
        return replace(sandbox, name=name), own, results

    def earlier(self, name: str, nonce: str, folder: str) -> Seen | None:
        """Return the sandbox that an earlier submit of this job has created; ``None``: there was none.

        The folder of the job decides, because a name is free again, and a list may forget. The runner's
        marker says that a sandbox has run the step. Its id is then that of its container.
        """
        found = self.service.find(name, nonce, is_new=True)
        if found is not None:
            return found
        task = self._marked(folder)
        if task is None:
            return None
        found = self.service.find(name, nonce)  # it may run, with a GPU
        return found if found is not None else Seen(task, name)

    def _marked(self, folder: str) -> str | None:
        """Return the id of the container that has run the step of a job, by the runner's marker.

        ``None``: there is no marker.

        :raises IntegrityError: the marker is damaged
        """
        entries = self.service.files.entries(folder) or []
        marker = next((one for one in entries if one.path == f"{folder}/{STARTED}"), None)
        if marker is None:
            return None
        is_small = marker.size <= MARKER_BYTES
        text = self.service.files.read(marker.path, marker.size) if is_small else b""
        data = parsed_json(text, "the marker")
        task = data.get("job") if isinstance(data, dict) else None
        if not isinstance(task, str) or not is_container(task):
            raise IntegrityError(f"{marker.path} in {self.service.files} is damaged; clear the task")
        return task

    def leftovers(self) -> Iterator[Leftover]:
        """Yield the folder of each job, and that of each task instance with checkpoints."""
        for files, top, parts in (
            (self.service.files, JOBS, JOB_PARTS),
            (self.service.checkpoints, CHECKPOINTS, CHECKPOINT_PARTS),
        ):
            yield from _leftovers(files, top, parts)

    # -- logs

    def logs(self, jobs: Mapping[Job, Cursor]) -> dict[str, LogChunk]:
        """Return the new lines of each job that has some.

        The receipt comes a little after the end of a sandbox. Who asks for one ended job alone reads the
        end of its log, so the answer waits for the receipt.
        """
        if len(jobs) <= FEW:  # another process may have read the receipt
            self._has_receipt |= {
                one.id for one, cursor in jobs.items() if Position.parse(cursor).has_receipt
            }
        over = self._over(jobs)
        led = {job.id: self._led(job).id for job in jobs}
        cursors = {led[job.id]: cursor for job, cursor in jobs.items()}
        sources = {led[job.id]: job for job in jobs}
        while True:
            read = self._logs.read(cursors, sources, {led[one] for one in over})
            found = {one: read[led[one]] for one in led if led[one] in read}
            self._has_receipt |= {one for one, chunk in found.items() if chunk.receipt is not None}
            if not self._is_awaited(jobs, over, found):
                return found
            time.sleep(PAUSE_S)

    def _over(self, jobs: Iterable[Job]) -> set[str]:
        """Return the sandboxes that have ended, as far as this process knows; a few are asked for."""
        few, found = list(jobs), set()
        for job in few:
            if job.id in self._ended_at:
                found.add(job.id)
            elif len(few) <= FEW:
                seen = self.service.look(job.id)
                if seen is not None and seen.result is not None:
                    self._ended_at[job.id] = time.time()
                    found.add(job.id)
        return found

    def _is_awaited(self, jobs: Iterable[Job], over: Iterable[str], found: Mapping[str, LogChunk]) -> bool:
        """Return whether the end of a log may still come, and somebody waits for it."""
        ids = [job.id for job in jobs]
        if len(ids) != 1 or found or ids[0] not in over or ids[0] in self._has_receipt:
            return False
        status = self._final.get(ids[0])
        ended_at = (status.finished_at if status is not None else None) or self._ended_at[ids[0]]
        return time.time() - ended_at < RECEIPT_S

    def tail(self, job: Job, count: int, since: Cursor) -> LogChunk:
        """Return the last ``count`` lines of a job after a cursor."""
        if Position.parse(since).has_receipt:
            self._has_receipt.add(job.id)
        is_over = bool(self._over([job]))
        while True:
            chunk = self._logs.tail(self._led(job).id, count, since, job, is_over=is_over)
            if chunk.receipt is not None:
                self._has_receipt.add(job.id)
            is_whole = chunk.receipt is not None or not is_over
            if is_whole or not self._is_awaited([job], [job.id], {}):
                return chunk
            time.sleep(PAUSE_S)


def _leftovers(files: VolumeFiles, top: str, parts: int) -> Iterator[Leftover]:
    for path, some in (folders_below(files, top, parts) if files.is_there() else {}).items():
        newest = max(entry.modified_at for entry in some)
        delete = partial(files.delete_folder, path)
        yield Leftover(path, len(some), sum(entry.size for entry in some), newest, delete)
