"""The lifecycle of a step in the worker: one job per generation, also across crashes.

Each new job of a task instance is a new generation. Its record (:class:`StepRecord`) replaces the record of
the generation before.

:class:`WorkerSession` calls :class:`StepLifecycle`, which uses the record and the hook and does not depend on
Airflow's operators.

The order of writes makes the step crash-safe. The lifecycle saves the record *before* anything exists outside
Airflow. It saves the record again after the submit, and again after it has read the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import WrongHostError
from airflow_stepop.failure import StepFailedError
from airflow_stepop.hooks.common.receipts import receipt_of, with_receipt, without_receipt
from airflow_stepop.job import JobHandle, JobStatus
from airflow_stepop.lifecycle.api_retries import ApiRetries
from airflow_stepop.lifecycle.collecting import Collected, Collector
from airflow_stepop.lifecycle.failures import as_seen_before, not_stopped, seen_end
from airflow_stepop.lifecycle.job_client import JobClient
from airflow_stepop.lifecycle.memory import asked_options, next_memory, resources_of
from airflow_stepop.lifecycle.new_records import has_no_job, new_record, newer_deadline, record_is_gone
from airflow_stepop.lifecycle.own_key import warn_of_own_key
from airflow_stepop.lifecycle.resubmitting import next_generation
from airflow_stepop.lifecycle.stopping import Stopping
from airflow_stepop.lifecycle.truncation import fit_to_state
from airflow_stepop.lifecycle.unknown_jobs import UnknownJobs
from airflow_stepop.lifecycle.usage import usage_of
from airflow_stepop.record import (
    ResumeDecision,
    StateStore,
    StepRecord,
    UntrustedRecord,
    load_record,
    resume_decision,
    save_record,
)
from airflow_stepop.waiting.deadlines import Deadlines, StopReason
from airflow_stepop.waiting.observer import Observer

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.core.documents import CollectedData
    from airflow_stepop.lifecycle.interfaces import Request


class StepLifecycle:
    """Runs one task instance's step, from its record to its result.

    :param request: what to run
    :param state: Airflow's ``task_state_store``
    :param log: the task's logger
    :param was_killed: returns whether the user has ended the task
    :param observer: is told of each event
    :param pause: called with seconds. Either waits that long, or defers the task by raising ``TaskDeferred``.
        After the deferral, the resumed task calls :meth:`begin`
    """

    def __init__(
        self,
        request: Request,
        state: StateStore,
        log: Logger,
        was_killed: Callable[[], bool] = lambda: False,
        observer: Observer | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.request = request
        self.observer = observer or Observer(request.labels)
        self.log = log
        self.was_killed = was_killed
        self._state = state
        self.api_retries = ApiRetries(request, log, was_killed, pause or time.sleep)
        self.jobs = JobClient(request, self.api_retries, log)
        self._stopping = Stopping(self.jobs, self.api_retries, self._save)
        self._unknown_jobs = UnknownJobs(request, self.jobs, self.api_retries, log)
        self._collector = Collector(request, self.jobs, self.api_retries, self.observer, log)
        self.record: StepRecord | None = None
        self.is_continued = False  # an earlier try may have submitted the job of a record without a handle
        self.has_begun_submit = False  # this try may have submitted a job
        self.has_found_end = False  # whether the job had already ended when this try attached to it

    # -- beginning

    def begin(self) -> JobHandle | Collected:
        """Return the job to wait for, or the result that an earlier try collected but could not return."""
        record = self._load()
        if isinstance(record, UntrustedRecord):
            return self._start(new_record(self.request, self._unknown_jobs.end(record)))
        decision = resume_decision(record, self.request.call)
        if record is None:
            return self._start(new_record(self.request, generation=1))
        self.log.info("Step generation %d found: %s", record.generation, decision.value)
        if decision is ResumeDecision.RETURN and record.collected is not None:
            self._collector.tidy(record)
            return Collected(record.collected)
        if decision is ResumeDecision.REPLACE:
            return self._replace(record)
        if decision is ResumeDecision.CONTINUE:
            return self._continue(record)
        return self._attach(record)

    def _start(self, record: StepRecord, pause_s: float = 0.0) -> JobHandle:
        """Save the record of a new generation, and then submit its job.

        After a crash, the record leads the next try to the job.

        :param pause_s: seconds to wait between the two
        """
        self._save(record)
        if pause_s > 0:
            self.api_retries.pause(pause_s)
        return self._submit(record)

    def _submit(self, record: StepRecord) -> JobHandle:
        self.observer.phase("the record of generation %d saved", record.generation)
        spec, payload = self.request.build(record)
        hook = self.jobs.hook(record)
        warn_of_own_key(hook, spec, self.log)
        self.has_begun_submit = True
        handle = self.api_retries.submit(hook, spec, payload, record.started_at)
        if self.was_killed():  # during the submit, when on_kill had no handle to cancel
            hook.cancel(handle)
        self._save(record.with_handle(handle))
        self.observer.submitted(record, payload)
        self.observer.phase("submitted, and the handle saved")
        # Airflow's log page sorts by time, and the step may have printed before the submit returned
        when = datetime.fromtimestamp(self.api_retries.submitted_at, UTC).isoformat().replace("+00:00", "Z")
        self.log.info("Submitted: %s (%s)", handle, shown_size(payload.inline_bytes), timestamp=when)
        return handle

    def _continue(self, record: StepRecord) -> JobHandle:
        """Go on from a record without a handle: look the job up, and submit if there is none.

        An earlier try died after it had saved the record. Its submit may have succeeded or not.
        """
        self.is_continued = True
        handle = self._lookup(record)
        if handle is None:
            return self._submit(record)
        record = record.with_handle(handle)
        self._save(record)
        return self._attach(record)

    def _lookup(self, record: StepRecord) -> JobHandle | None:
        """Return the job of a record without a handle, or ``None``; retry transient errors."""
        return self.api_retries.ask(self.jobs.hook(record), lambda: self.jobs.lookup(record))

    def _attach(self, record: StepRecord) -> JobHandle:
        """Return the job of the record, or a new job that replaces it.

        A job is replaced if it has ended, and left neither an outcome nor an end for the task to report.
        """
        handle = self._handle_of(record)
        status = self.status(handle)
        if status.state.is_terminal and not self._collector.is_reportable(handle, status):
            self.log.warning(
                "%s ended without an outcome (%s); a new job replaces it", handle, status.state.value
            )
            return self._replace(record)
        self.log.info("Attached to %s, which is %s", handle, status.state.value)
        self.has_found_end = status.state.is_terminal
        self.observer.attached(record)
        return handle

    def _replace(self, record: StepRecord) -> JobHandle:
        """End the job of an older generation, if there is one, and start the next generation."""
        handle = self._stop(record)
        if handle is not None:
            self._collector.tidy(record.with_handle(handle))
        memory_bytes = next_memory(record, self.request, self.log)
        return self._start(new_record(self.request, record.generation + 1, memory_bytes=memory_bytes))

    def _stop(self, record: StepRecord) -> JobHandle | None:
        """Cancel the job of ``record``, if there is one, and wait until the job is terminal or gone.

        :raises StepFailedError: the job still runs after ``StepHook.stop_limit_s``, so a second job must not
            start
        :raises TaskDeferred: the job needs longer; the resumed task calls :meth:`begin`
        :raises WrongHostError: the job is on another host and its outcome was not collected
        """
        handle = record.handle or self._lookup(record)
        if handle is None:
            return None
        try:
            self.jobs.cancel(handle)
        except WrongHostError:
            if record.collected is None:
                raise
            return handle  # the job was over; its host or cluster may no longer exist
        if not self._stopping.is_over(record, handle):
            raise StepFailedError(not_stopped(self._stopping.limit_s(handle)), str(handle))
        return handle

    # -- waiting

    def deadlines(self, execution: float | None) -> Deadlines:
        """Return the deadlines of the record's job.

        :param execution: when the task's ``execution_timeout`` passes, seconds since the epoch, or ``None``
        """
        record = self.record
        submitted = (record.submitted_at if record else None) or time.time()
        asked = record.asked if record and record.asked else asked_options(self.request)
        return Deadlines.of_job(asked, submitted, execution)

    # -- ending

    def note_end(self, status: JobStatus) -> None:
        """Save how the record's job ended, unless the record knows it.

        This comes before everything else that follows from the end. The outcome is read later, perhaps by
        another process, and the job may be gone by then.
        """
        record = self._current_record()
        if status.state.is_end and record.end is None:
            self._save(replace(record, end=seen_end(status)))

    def note_receipt(self, signed: object) -> JobHandle:
        """Save the receipt that was read with the job's log; return the job's handle, which has the receipt.

        :param signed: the result of ``signed_receipt``; ignored if it is ``None``, or signed with another key
        """
        record = self._current_record()
        handle = self._handle_of(record)
        known = with_receipt(handle, signed)
        if signed is None or receipt_of(known) is None:
            return handle
        self._save(record.with_handle(known))
        return known

    def status(self, handle: JobHandle) -> JobStatus:
        """Return the status of the record's job: what was seen of its end counts also if the job is gone."""
        status = as_seen_before(self.jobs.status(handle), self._current_record().end)
        self.note_end(status)
        return status

    def finish(
        self, handle: JobHandle, reason: StopReason, native_state: str = "", *, may_pause: bool = True
    ) -> Collected:
        """Collect the outcome, save it in the record, and delete the job as ``keep`` says.

        :param reason: why waiting ended; after a deadline the job is cancelled first
        :param native_state: the service's own state of the job when a deadline passed
        :param may_pause: whether the task may defer while a cancelled job ends
        """
        began = time.monotonic()
        record = self._current_record()
        handle = record.handle or handle  # it may have a receipt
        if reason.is_deadline:
            collected, status = self._collector.give_up(
                record,
                handle,
                reason,
                native_state,
                lambda: self._stopping.is_over(record, handle, reason, native_state, may_pause=may_pause),
            )
        else:
            status = self.status(handle)
            record = self._current_record()
            collected = self._collector.collect(record, handle, status)
        failure = collected.failure
        resources = resources_of(record, self.request).at_least(record.memory_bytes)
        known = {**(status.usage if status else {}), **collected.own_usage}
        usage = usage_of(collected.usage, known, resources, failure is None)
        data: CollectedData = {**collected.data, "usage": usage}
        if failure is not None:
            data["failure"] = fit_to_state(failure).to_json()
        keep = "always" if collected.is_kept else record.keep
        collected = Collected(data)
        record = replace(record, handle=without_receipt(handle), collected=collected.data, keep=keep)
        self._save(record)
        category = failure.category.value if failure else ""
        self.observer.finished(record, status, category, time.monotonic() - began)
        self._collector.tidy(record)
        return collected

    def resubmission(self, collected: Collected) -> JobHandle | None:
        """Submit the next generation after a preemption or a lack of capacity; return its job.

        Returns ``None`` for every other end, and after ``max_resubmissions``. A resubmission uses up no retry
        of the task.
        """
        record, failure = self._current_record(), collected.failure
        if failure is None or (again := next_generation(record, failure, self.request)) is None:
            return None
        self.log.warning("%s: %s", failure.summary, again.message)
        self.observer.resubmitted(record, failure.category.value)
        self._stop(record)
        # The step goes on in another job. So keep="failed" must not keep this job: tidy() sees no failure
        self._collector.tidy(replace(record, collected=None))
        return self._start(again.record, again.pause_s)

    def cancel(self, reason: StopReason | None = None) -> JobHandle | None:
        """Cancel the record's job because the task was ended; return the job, if there is one.

        :param reason: the deadline that ended the task; if given, the failure is also collected and saved
        """
        record = self.record or self._load()
        if isinstance(record, UntrustedRecord):
            self._unknown_jobs.cancel(record)
            return None
        handle = (record.handle or self.jobs.lookup(record)) if record else None
        if handle is None:
            return None
        self.jobs.hook_of(handle).cancel(handle)
        if reason is not None and record is not None:
            self.record = record.with_handle(handle)
            self.finish(handle, reason, may_pause=False)
        return handle

    def abandon(self) -> None:
        """Cancel the record's job, which no try looks at again. It is too slow for a signal handler."""
        if (handle := self.cancel()) is not None:
            self._collector.delete_secrets(handle)

    # -- the record

    def resume(self) -> JobHandle | None:
        """Return the record's job after a deferral; ``None`` if the quota had no room for a job so far.

        It is also ``None`` if the record cannot be trusted. After ``None``, the caller calls :meth:`begin`.
        The job is read from the record and not from the trigger's event, since the event may be about the
        job of an older generation.

        :raises StepFailedError: the task's state has no record
        """
        if isinstance(self._load(), UntrustedRecord):
            return None
        return self._current_record().handle

    def ended_job(self) -> JobHandle | None:
        """Return the record's job if it has ended and its outcome is not collected yet; else ``None``."""
        record = self._load()
        if record is None or isinstance(record, UntrustedRecord):
            return None
        if record.end is None or record.collected is not None:
            return None
        return record.handle

    def stopped_job(self) -> tuple[JobHandle, StopReason, str] | None:
        """Return the job that is being stopped after a deadline, the deadline, and the job's state then."""
        record = self.record
        if record is None or record.handle is None or record.collected is not None:
            return None
        reason, native_state = record.stop.get("reason"), record.stop.get("native_state")
        if reason not in (None, *StopReason):
            raise newer_deadline(reason)
        return (record.handle, StopReason(reason), str(native_state or "")) if reason else None

    def _current_record(self) -> StepRecord:
        if self.record is None:
            raise record_is_gone()
        return self.record

    def _handle_of(self, record: StepRecord) -> JobHandle:
        if record.handle is None:
            raise has_no_job(record)
        return record.handle

    def _load(self) -> StepRecord | UntrustedRecord | None:
        """Load the record; keep it as :attr:`record` if it can be trusted."""
        found = load_record(self._state, self.request.labels)
        self.record = None if isinstance(found, UntrustedRecord) else found
        return found

    def _save(self, record: StepRecord) -> None:
        save_record(self._state, record, self.request.labels)
        self.record = record
