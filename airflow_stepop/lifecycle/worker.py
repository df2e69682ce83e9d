"""One session of a task in a worker: from ``execute`` or ``resume`` until the task returns, raises or defers.

The operator calls :class:`WorkerSession`. The session handles Airflow's part (defer, XCom, signals, timeouts)
and calls the step's lifecycle, which does not depend on Airflow's operators.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout, TaskDeferred

from airflow_stepop.core.units import LONGEST_S
from airflow_stepop.exceptions import StepConfigError, StepInterruptedError, is_final
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.receipts import signed_receipt
from airflow_stepop.job import JobStatus
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.failures import unmappable, with_memory
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.lifecycle.memory import memory_bytes as memory_of
from airflow_stepop.lifecycle.missing_files import with_include
from airflow_stepop.lifecycle.remote_exception import to_exception
from airflow_stepop.lifecycle.request import StepRequest
from airflow_stepop.lifecycle.usage import XCOM_KEY, describe
from airflow_stepop.lifecycle.worker_wait import WorkerWait
from airflow_stepop.payload.outcome import said, to_xcom
from airflow_stepop.triggers import PauseTrigger, RemoteStepTrigger
from airflow_stepop.waiting.deadlines import Deadlines, StopReason
from airflow_stepop.waiting.task_state import task_state

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_stepop.core.documents import StepUsage
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import JobHandle
    from airflow_stepop.lifecycle.interfaces import Task

ASK_S = 1.0  # longest wait for the task's state while Airflow is killing this process
DEFER_MARGIN_S = 300.0  # Airflow's trigger timeout is this much later than the deadline in the trigger
# States of a task that Airflow is about to try again: the scheduler may take a slow worker for dead.
TRIED_AGAIN = ("scheduled", "queued", "up_for_retry")


class WorkerSession:
    """The work of one process for one task instance.

    :meth:`begin` runs in ``execute``. :meth:`resume` runs after a deferral. :meth:`recover` runs after a
    failed trigger. Each returns the task's XCom value, defers the task, or raises the step's failure.

    :param operator: the task, with rendered templates
    :param context: Airflow's context of this try
    """

    def __init__(self, operator: Task, context: Context) -> None:
        self.operator = operator
        self.log = operator.log
        self.request = StepRequest(operator, context)
        self.observer = self.request.observer
        self.lifecycle = StepLifecycle(
            self.request,
            context["task_state_store"],
            self.log,
            was_killed=lambda: self._is_ended,
            observer=self.observer,
            pause=self._pause_elsewhere,
        )
        self._begun = context["ti"].start_date
        self._has_retry = bool(context["ti"].try_number <= context["ti"].max_tries)
        self.error: Exception | None = None  # raised for the step's failure
        self._native_state = ""  # the service's own name of the job's state
        self._is_ended = False  # by the user; a submit in progress then cancels its own job
        self._is_in_doubt = False  # told to end, and Airflow did not answer why
        self._is_uncancelled = False  # ended by the user; the first cancel failed

    # -- entry points: Airflow calls these through the operator

    def begin(self) -> object:
        """Start or find the job, and wait for it; called in ``execute``."""
        self.observer.phase("templates rendered: try %d begins", self.request.ti.try_number)
        with self._guarded():
            _ = self.request.log_limit  # a wrong value has to fail before the submit
            return self._go_on(self.lifecycle.begin())

    def resume(self, event: Mapping[str, Any]) -> object:
        """Go on after a trigger fired.

        :param event: ``reason`` (a :class:`StopReason`), and ``job`` and ``error`` from a
            :class:`RemoteStepTrigger`
        :raises StepConfigError: the triggerer cannot see the job
        """
        with self._guarded():
            if event.get("reason") == StopReason.PAUSED:
                return self._after_pause()
            handle = self.lifecycle.resume()
            if handle is None:
                return self._begin_again()
            self.observer.phase("resumed: %s", event.get("reason"))
            if event.get("job") not in (None, handle.name):
                # The old trigger of a cleared task fired late, since SQLite reuses trigger ids.
                self.log.info("This event is about the job %s of an earlier generation", event["job"])
                return self._go_on(handle)
            reason = StopReason.of_event(event)
            if reason is StopReason.UNREACHABLE:
                raise StepConfigError(
                    f"the triggerer cannot see {handle}: {event.get('error')}. Set deferrable=False"
                )
            if (end := event.get("end")) is not None:
                self.lifecycle.note_end(JobStatus.from_json(end))
            handle = self.lifecycle.note_receipt(event.get("receipt"))
            if reason is StopReason.FINISHED and not self.lifecycle.status(handle).state.is_terminal:
                reason = self.wait_in_worker(handle)
            return self._end(handle, reason, str(event.get("error") or ""))

    def recover(self, failure: Mapping[str, Any]) -> object:
        """Go on after a trigger that crashed or timed out: this worker waits for the job itself.

        :param failure: ``error`` and ``traceback`` from Airflow
        """
        self.log.warning("The trigger failed (%s); this worker goes on", failure.get("error"))
        for line in failure.get("traceback") or ():
            self.log.warning("%s", line.rstrip())
        with self._guarded():
            handle = self.lifecycle.resume()
            if handle is None:
                return self._begin_again()
            return self._end(handle, self.wait_in_worker(handle))

    def on_kill(self) -> None:
        """Cancel the job if the user ended the task; leave it to the next try if only this worker ends."""
        record = self.lifecycle.record
        if record is None or record.collected is not None or self._is_ended:
            return
        state = self._ask_state()
        self._is_in_doubt = state is None
        if state in TRIED_AGAIN or (state in ("running", None) and self._has_retry):
            self.log.info("This worker is ending; the job goes on and the next try attaches to it")
            return
        self._is_ended = True
        self.log.info("The task was ended: cancelling the job of %s", record.name)
        self._cancel_soon()

    def _cancel_soon(self) -> None:
        """Cancel the job now, or at the next pause if that fails.

        The signal may have interrupted code that the cancel needs, such as the import of a client.
        """
        try:
            self.lifecycle.cancel()
            self._is_uncancelled = False
        except Exception as error:  # noqa: BLE001, RUF100 - in a signal handler, an exception would be raised into unrelated code
            self._is_uncancelled = True
            self.log.warning("The job could not be cancelled yet: %s", error)

    # -- from one phase to the next

    def _go_on(self, began: JobHandle | Collected) -> object:
        if isinstance(began, Collected):
            what = "result and was killed before it could return it"
            if began.failure is not None:
                what = "failure, and the step is not run again, because it has succeeded"
            self.log.info("An earlier try collected this %s", what)
            return self._to_xcom(began)
        hook = self.request.hook(began.backend, began.conn_id)
        self.operator.job_url = hook.link(began)
        self._settle_doubt()
        if self._defers(hook):
            self._defer(began)
        return self._end(began, self.wait_in_worker(began))

    def _after_pause(self) -> object:
        """Go on after a pause: read the outcome of a job that has ended, end a late job, or else submit."""
        handle = self.lifecycle.ended_job()
        if handle is None and (stopped := self.lifecycle.stopped_job()) is not None:
            return self._end(*stopped)
        if handle is None:
            return self._begin_again()
        self._check_execution_timeout("the outcome of its job could be read")
        return self._end(handle, StopReason.FINISHED)

    def _begin_again(self) -> object:
        self._check_execution_timeout("there was room for its job")
        return self._go_on(self.lifecycle.begin())

    def _check_execution_timeout(self, before: str) -> None:
        """Raise Airflow's timeout after a pause, in which Airflow did not enforce ``execution_timeout``."""
        end = self._deadlines().execution
        if end is not None and time.time() > end:
            raise AirflowTaskTimeout(f"the task's execution_timeout passed before {before}")

    def _end(self, handle: JobHandle, reason: StopReason, native_state: str = "") -> object:
        self.operator.job_url = self.request.hook(handle.backend, handle.conn_id).link(handle)
        collected = self.lifecycle.finish(handle, reason, native_state or self._native_state)
        again = self.lifecycle.resubmission(collected)
        return self._go_on(again) if again is not None else self._to_xcom(collected)

    def _to_xcom(self, collected: Collected) -> object:
        failure, value = collected.failure, None
        if failure is None:
            value = to_xcom(collected.data["result"])
            failure = unmappable(value, self.request.mapped_over)
        if failure is None:
            self.observer.phase("result handed over")
            self._report_usage(collected.usage)
            if "nothing" not in collected.data["result"]:
                self.log.info("returned %s", said(value))
            return value
        failure, next_memory = self._with_advice(failure, collected.usage)
        self._report_usage(collected.usage)
        handle = self.lifecycle.record.handle if self.lifecycle.record else None
        where = f"{handle} {self.operator.job_url or ''}".strip() if handle else ""
        self.error = to_exception(failure, where, next_memory, self.request.project)
        if not isinstance(self.error, AirflowSkipException):
            self.log.error("%s", self.error.__cause__ or self.error)
            # Next Airflow logs the error with the frames of this process. Its log page shows a group folded
            self.log.info("::group::The frames of the worker, which say nothing about the step")
        raise self.error

    def _with_advice(self, failure: Failure, used: StepUsage) -> tuple[Failure, str | None]:
        """Return the failure with a hint of this side, and the memory that the next try asks for."""
        failure = with_include(failure, self.request.project, self.operator.include or ())
        on_oom, record = self.request.on_oom, self.lifecycle.record
        if record is None:
            return failure, None
        memory_bytes = memory_of(record, self.request)
        failure = with_memory(failure, memory_bytes, used.get("peak_memory_bytes"))
        if on_oom is None or failure.category is not Category.OOM:
            return failure, None
        next_memory, advice = on_oom.advice(memory_bytes, self._has_retry)
        return replace(failure, hint=advice), next_memory

    def _report_usage(self, used: StepUsage) -> None:
        """Log the step's usage and push it as an XCom; an error does not fail the task."""
        from airflow.sdk.execution_time.xcom import XCom

        if not used:
            return
        self.log.info("%s", describe(used))
        if not self.operator.do_xcom_push:
            return
        labels = self.request.labels
        keys = {name: labels[name] for name in ("dag_id", "run_id", "task_id")}
        try:
            XCom.set(key=XCOM_KEY, value=dict(used), **keys, map_index=int(labels["map_index"]))
        except Exception as error:  # noqa: BLE001, RUF100 - the step's result does not depend on it
            self.log.warning("The usage of the step could not be pushed: %s", error)

    # -- waiting

    def _defers(self, hook: StepHook) -> bool:
        """Whether the task waits in the triggerer rather than in this worker."""
        if self.lifecycle.has_found_end:
            return False  # if a trigger fires before this worker has exited, Airflow fails the resumed task
        return self._may_defer(hook)

    def _may_defer(self, hook: StepHook) -> bool:
        record, chosen = self.lifecycle.record, self.operator.deferrable
        if chosen is None:
            chosen = record.asked.get("deferrable") if record and record.asked else self.request.deferrable
        if chosen is not None:
            return bool(chosen)
        return conf.getboolean("stepop", "deferrable", fallback=True) and not hook.is_host_bound

    def _deadlines(self) -> Deadlines:
        """Return the job's deadlines; with ``execution_timeout``, which Airflow ignores during a deferral."""
        limit = self.operator.execution_timeout
        if limit is None or self._begun is None:
            return self.lifecycle.deadlines(None)
        return self.lifecycle.deadlines(self._begun.timestamp() + limit.total_seconds())

    def _defer(self, handle: JobHandle) -> NoReturn:
        deadlines, labels = self._deadlines(), self.request.labels
        self.observer.phase("deferring")
        trigger = RemoteStepTrigger(
            handle=handle.to_json(),
            deadlines=deadlines.to_json(),
            poll_interval=self.request.poll_interval_s,
            waiter={**labels, "map_index": int(labels["map_index"]), "since": time.time()},
            log_limit=self.request.log_limit,
            debug=self.request.is_debugged,
        )
        left_s = deadlines.execution - time.time() if deadlines.execution is not None else LONGEST_S
        timeout = timedelta(seconds=max(left_s, 0) + DEFER_MARGIN_S) if left_s < LONGEST_S else None
        self.operator.defer(trigger=trigger, method_name="resume", timeout=timeout)

    def _pause_elsewhere(self, pause_s: float) -> None:
        """Wait for a quota, an outcome or a cancelled job; defer where the task may, and hold no worker.

        Otherwise tasks that wait for room could occupy all workers. Then no worker would be left for the
        tasks whose end makes room.
        """
        if not self._may_defer(self.request.own_hook):
            time.sleep(pause_s)
            return
        until, end = time.time() + pause_s, self._deadlines().execution
        is_ahead = end is not None and end > time.time()  # else the job is being stopped because of it
        trigger = PauseTrigger(min(until, end) if end is not None and is_ahead else until)
        self.operator.defer(trigger=trigger, method_name="resume")

    def wait_in_worker(self, handle: JobHandle) -> StopReason:
        """Wait for the job in this worker, by the same rules as the trigger; return why waiting ended."""
        wait = WorkerWait(self.request, self.log, self.observer, self._settle_doubt)
        reason = wait.until_over(handle, self._deadlines(), self.lifecycle.note_end)
        if wait.receipt is not None:
            self.lifecycle.note_receipt(signed_receipt(handle, wait.receipt))
        self._native_state = wait.native_state
        return reason

    # -- errors and signals

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """On an exception, cancel the job or leave it to a retry that will attach to it.

        :raises StepInterruptedError: the error may be transient and the task has a retry; the job goes on
        """
        try:
            yield
        except TaskDeferred:
            raise
        except AirflowTaskTimeout:
            self._is_ended = True  # Airflow calls on_kill next, and on_kill would find the task running
            self.log.warning("The task's execution_timeout passed: cancelling its job")
            self.lifecycle.cancel(StopReason.EXECUTION_TIMEOUT)
            raise
        except KeyboardInterrupt:  # Ctrl-C in dag.test(), which does not call on_kill
            self.lifecycle.abandon()
            raise
        except Exception as error:
            record = self.lifecycle.record
            if record is None or record.collected is not None:
                raise
            if not is_final(error) and self._has_retry and not self._is_ended:
                what = "the job goes on, and the next try attaches to it"
                if record.handle is None:
                    what = "the job may not exist yet; the next try looks for it, and submits it if not"
                raise StepInterruptedError(f"lost touch with {record.name}: {error}; {what}") from error
            self._cancel_quietly(error)
            raise

    def _cancel_quietly(self, first: Exception) -> None:
        """Cancel the job of a task that fails with ``first``; only log an error.

        Nothing is said if no job can run: the try failed before the submit, or the submit was refused.
        """
        try:
            self.lifecycle.abandon()
        except Exception as error:  # noqa: BLE001, RUF100 - the caller raises the first error
            life, record = self.lifecycle, self.lifecycle.record
            if record is not None and record.handle is not None:
                self.log.warning("The job could not be cancelled: %s", error)
            elif life.is_continued or (life.has_begun_submit and not is_final(first)):
                self.log.warning("The job, if there is one, could not be cancelled: %s", error)

    def _settle_doubt(self) -> None:
        """Finish the work of ``on_kill``: its signal may have interrupted a call to Airflow or an import."""
        if self._is_uncancelled:
            self._cancel_soon()
        if self._is_in_doubt and (state := self._ask_state()) is not None:
            self._is_in_doubt = False
            if state != "running":
                self.log.info("The task is %s: cancelling its job", state)
                self.lifecycle.cancel()

    def _ask_state(self) -> str | None:
        """Return the task instance's state in Airflow, or ``None`` if there is no answer within ``ASK_S``.

        The call runs in a thread, because the signal may have interrupted another call and the channel to
        Airflow is not re-entrant.
        """
        answer: list[str | None] = []
        thread = threading.Thread(target=lambda: answer.append(task_state(self.request.labels)), daemon=True)
        thread.start()
        thread.join(ASK_S)
        return answer[0] if answer else None
