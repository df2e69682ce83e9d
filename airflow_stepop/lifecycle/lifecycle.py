"""The life of a step in the worker: one job per generation, whatever dies in between.

It knows the record, the hook and the rules, and nothing of Airflow's operators. The order of writes is the
point of this module: the record is saved *before* anything exists outside, and after each thing learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_stepop.core.units import format_size, shown_size
from airflow_stepop.exceptions import OutcomeLostError, WrongHostError
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.job import JobHandle, JobStatus, OutcomeReport, Payload, StepSpec
from airflow_stepop.lifecycle.api_retries import Patience
from airflow_stepop.lifecycle.collecting import Collected, Collector
from airflow_stepop.lifecycle.job_client import STOP_LIMIT_S, JobClient
from airflow_stepop.lifecycle.truncation import storable
from airflow_stepop.lifecycle.usage import usage_of
from airflow_stepop.record import (
    Call,
    StateStore,
    StepRecord,
    Way,
    first_record,
    load_record,
    save_record,
    way_on,
)
from airflow_stepop.waiting.backoff import jittered
from airflow_stepop.waiting.deadlines import OVERDUE_FACTOR, OVERDUE_S, Deadlines, Reason
from airflow_stepop.waiting.observer import Observer

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.oom import MoreMemory
    from airflow_stepop.resources import ResourceSettings

MAX_RESUBMISSIONS = 3


class Request(Protocol):
    """What the operator asks for; the life of a step decides when."""

    keep: str

    @property
    def call(self) -> Call: ...

    @property
    def backend(self) -> str: ...

    @property
    def conn_id(self) -> str | None: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def poll_interval_s(self) -> float: ...

    @property
    def timeout_s(self) -> float: ...

    @property
    def start_timeout_s(self) -> float | None: ...

    @property
    def capacity_pause_s(self) -> float: ...

    @property
    def resources(self) -> ResourceSettings: ...

    @property
    def location(self) -> Mapping[str, Any]: ...

    @property
    def on_oom(self) -> MoreMemory | None: ...

    def build(
        self, name: str, nonce: str, labels: Mapping[str, str], memory_bytes: int | None = None
    ) -> tuple[StepSpec, Payload]:
        """Return the job request for one generation. May write arguments into the store.

        :param memory_bytes: ask for at least so much memory
        """

    def read(self, report: OutcomeReport, job: str, nonce: str) -> dict[str, Any]:
        """Return ``{"result": ...}`` or ``{"failure": ...}`` from a verified outcome, and its ``usage``."""

    def forget_checkpoints(self) -> None:
        """Delete what earlier tries have left for the next one. Idempotent."""

    def hook(self, backend: str, conn_id: str | None) -> StepHook: ...


class StepLife:
    """Takes one task instance's step from its record to its result.

    :param request: what to run
    :param state: Airflow's ``task_state_store``
    :param was_killed: whether the user ended the task meanwhile
    :param observer: hears of what happens
    :param pause: waits for so many seconds, or leaves this process with an exception; :meth:`begin` goes on
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
        self.patience = Patience(request, log, was_killed, pause or time.sleep)
        self.jobs = JobClient(request, self.patience, log)
        self._collector = Collector(request, self.jobs, self.patience, self.observer, log)
        self.record: StepRecord | None = None
        self.has_found_end = False  # the job of an earlier try had ended when this one attached to it

    # -- beginning

    def begin(self) -> JobHandle | Collected:
        """Return the job to wait for, or what an earlier try collected and could not hand over."""
        self.record = record = load_record(self._state)
        way = way_on(record, self.request.call)
        if record is None:
            return self._start(generation=1)
        self.log.info("Step generation %d found: %s", record.generation, way.value)
        if way is Way.RETURN and record.collected is not None:
            self._collector.tidy(record)
            return Collected(record.collected)
        if way is Way.REPLACE:
            return self._replace(record)
        return self._continue(record) if way is Way.CONTINUE else self._attach(record)

    def _start(
        self, generation: int, resubmissions: int = 0, memory_bytes: int | None = None, pause_s: float = 0.0
    ) -> JobHandle:
        """Write ahead, then submit: a crash anywhere leaves a record that leads to whatever exists."""
        request = self.request
        record = first_record(
            call=request.call,
            backend=request.backend,
            conn_id=request.conn_id,
            labels=request.labels,
            generation=generation,
            resubmissions=resubmissions,
        )
        record = replace(record, memory_bytes=memory_bytes, keep=request.keep, location=request.location)
        self._save(record)
        if pause_s > 0:
            self.patience.pause(pause_s)
        return self._submit(record)

    def _submit(self, record: StepRecord) -> JobHandle:
        self.observer.phase("the record of generation %d saved", record.generation)
        spec, payload = self.request.build(record.name, record.nonce, record.labels, record.memory_bytes)
        hook = self.jobs.hook(record)
        size = shown_size(payload.inline_bytes)
        self.log.info("Submitting %s to %s (%s)", record.name, record.backend, size)
        handle = self.patience.submit(hook, spec, payload, record.started_at)
        if self.was_killed():
            hook.cancel(handle)
        self._save(record.with_handle(handle))
        self.observer.submitted(record, payload)
        self.observer.phase("submitted, and the handle saved")
        self.log.info("Submitted: %s", handle)
        return handle

    def _continue(self, record: StepRecord) -> JobHandle:
        """An earlier try died between the intent and the handle: its submit may have gone through, or not at
        all.
        """
        handle = self.patience.ask(self.jobs.hook(record), lambda: self.jobs.lookup(record))
        if handle is None:
            return self._submit(record)
        self._save(record.with_handle(handle))
        return self._attach(record.with_handle(handle))

    def _attach(self, record: StepRecord) -> JobHandle:
        handle = self._known(record)
        status = self.jobs.status(handle)
        if status.state.is_terminal and not self._has_answer(handle, status):
            self.log.warning(
                "%s ended without an outcome (%s); a new job replaces it", handle, status.state.value
            )
            return self._replace(record)
        self.log.info("Attached to %s, which is %s", handle, status.state.value)
        self.has_found_end = status.state.is_terminal
        self.observer.attached(record)
        return handle

    def _has_answer(self, handle: JobHandle, status: JobStatus) -> bool:
        try:
            self.jobs.outcome(handle)
        except OutcomeLostError:
            return status.failure is not None and not status.failure.category.is_replaced
        return True

    def _replace(self, record: StepRecord) -> JobHandle:
        """End what there is of an older generation, and start the next one."""
        handle = self._stop(record)
        if handle is not None:
            self._collector.tidy(record.with_handle(handle))
        return self._start(record.generation + 1, memory_bytes=self._next_memory(record))

    def _next_memory(self, record: StepRecord) -> int | None:
        """Return what the generation after ``record`` asks for, if not what the task asks for."""
        if record.call != self.request.call:
            return None  # cleared or changed: it begins anew
        failure = Collected(record.collected).failure if record.collected else None
        on_oom = self.request.on_oom
        if on_oom is None or failure is None or failure.category is not Category.OOM:
            return record.memory_bytes
        before = self.memory_bytes(record)
        more = on_oom.after(before)
        if more is None:
            return record.memory_bytes
        self.log.warning(
            "The last try ran out of memory with %s: this one asks for %s (on_oom: at most %s)",
            *(format_size(before), format_size(more), on_oom.cap),
        )
        return more

    def memory_bytes(self, record: StepRecord) -> int:
        """Return what the generation asks for, 0 when that is left to the backend."""
        return self.request.resources.at_least(record.memory_bytes).memory_bytes or 0

    def _stop(self, record: StepRecord) -> JobHandle | None:
        """Cancel the job of ``record``, if there is one, and wait until it is terminal or gone."""
        handle = record.handle or self.patience.ask(self.jobs.hook(record), lambda: self.jobs.lookup(record))
        if handle is None:
            return None
        try:
            self.jobs.cancel(handle)
        except WrongHostError:
            if record.collected is None:
                raise
            return handle  # it was over: the place where it was may be no more
        if not self.jobs.wait_until_over(handle, STOP_LIMIT_S):
            raise StepFailedError(
                Failure(
                    Category.LOST,
                    f"an earlier job of this task could not be stopped within {STOP_LIMIT_S:.0f} s; "
                    "a second one beside it would run twice",
                    hint="stop it at the service, then clear the task",
                ),
                str(handle),
            )
        return handle

    # -- waiting

    def deadlines(self, execution: float | None) -> Deadlines:
        """Return the limits of waiting for the job.

        :param execution: Airflow's own limit for the task, seconds since the epoch
        """
        record = self.record
        begun = (record.submitted_at if record else None) or time.time()
        start_timeout_s = self.request.start_timeout_s
        start = begun + start_timeout_s if start_timeout_s is not None else None
        run_s = self.request.timeout_s * OVERDUE_FACTOR + OVERDUE_S
        return Deadlines(execution, start, run_s, start_timeout_s, begun)

    # -- ending

    def finish(self, handle: JobHandle, reason: Reason, word: str = "") -> Collected:
        """Collect what the step came to, save it, and delete what ``keep`` does not want.

        :param word: the service's word for how the job stood when a deadline passed
        """
        began, record = time.monotonic(), self._own_record()
        if reason.is_deadline:
            collected, status = self._collector.give_up(record, handle, reason, word)
        else:
            status = self.jobs.status(handle)
            collected = self._collector.collect(record, handle, status)
        failure = collected.failure
        asked = self.request.resources.at_least(record.memory_bytes)
        used = usage_of(collected.usage, status.usage if status else {}, asked, failure is None)
        data = {**collected.data, "usage": used}
        if failure is not None:
            data["failure"] = storable(failure).to_json()
        collected = Collected(data)
        record = replace(record, collected=collected.data)
        self._save(record)
        category = failure.category.value if failure else ""
        self.observer.finished(record, status, category, time.monotonic() - began)
        self._collector.tidy(record)
        return collected

    def resubmission(self, collected: Collected) -> JobHandle | None:
        """Return the next generation's job if the service took this one's machine away, up to a limit."""
        record, failure = self._own_record(), collected.failure
        if (
            failure is None
            or not failure.category.is_resubmitted
            or record.resubmissions >= MAX_RESUBMISSIONS
        ):
            return None
        count, pause_s = record.resubmissions + 1, 0.0
        if failure.category is Category.NO_CAPACITY:
            pause_s = jittered(self.request.capacity_pause_s * 2**record.resubmissions)
        self.log.warning(
            "%s: resubmitting (%d of %d)%s",
            *(failure.summary, count, MAX_RESUBMISSIONS, f" in {pause_s:.0f} s" if pause_s else ""),
        )
        self.observer.resubmitted(record, failure.category.value)
        self._stop(record)
        self._collector.tidy(replace(record, collected=None))  # the step has not failed: it goes on elsewhere
        return self._start(record.generation + 1, count, record.memory_bytes, pause_s)

    def cancel(self, reason: Reason | None = None) -> None:
        """Stop the job of the record, wherever it stands, because the task was ended."""
        record = self.record or load_record(self._state)
        handle = (record.handle or self.jobs.lookup(record)) if record else None
        if handle is None:
            return
        self.jobs.hook_of(handle).cancel(handle)
        if reason is not None and record is not None:
            self.record = record.with_handle(handle)
            self.finish(handle, reason)

    # -- the record

    def resume(self) -> JobHandle | None:
        """Return the job of the record after a deferral: the record, not the event, is what we believe.
        ``None`` when there is none yet, as there was no room for it: :meth:`begin` goes on.
        """
        self.record = load_record(self._state)
        return self._own_record().handle

    def _own_record(self) -> StepRecord:
        if self.record is None:
            raise StepFailedError(
                Failure(
                    Category.LOST,
                    "the record of this step is gone from the task's state",
                    hint="clear the task",
                )
            )
        return self.record

    def _known(self, record: StepRecord) -> JobHandle:
        if record.handle is None:
            raise StepFailedError(
                Failure(Category.LOST, "the record of this step has no job", hint="clear the task"),
                record.name,
            )
        return record.handle

    def _save(self, record: StepRecord) -> None:
        save_record(self._state, record)
        self.record = record
