"""One stint of a task in a worker: from ``execute`` or ``resume`` until it returns, raises or defers.

Between Airflow, which calls in through the operator, and the life of the step, which knows no Airflow.
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
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred

from airflow_stepop.arguments import LONGEST_S
from airflow_stepop.exceptions import StepConfigError, StepInterruptedError, is_final
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.lifecycle import StepLife
from airflow_stepop.lifecycle.remote_exception import to_exception
from airflow_stepop.lifecycle.request import StepRequest, Task
from airflow_stepop.lifecycle.usage import XCOM_KEY, describe
from airflow_stepop.payload.outcome import hand_over
from airflow_stepop.triggers import PauseTrigger, RemoteStepTrigger
from airflow_stepop.waiting.backoff import Pace
from airflow_stepop.waiting.deadlines import Clock, Deadlines, Reason
from airflow_stepop.waiting.task_log import TaskLog
from airflow_stepop.waiting.task_state import task_state

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import Cursor, JobHandle

ASK_S = 1.0  # longest question to Airflow while it kills this process
DEFER_MARGIN_S = 300.0
DOUBT_S = 0.5  # between two looks whether a question to Airflow is open
# states of a task that Airflow is about to try again: its scheduler takes a worker for dead that was slow
TRIED_AGAIN = ("scheduled", "queued", "up_for_retry")
LOG_POLL_S = 1.0  # a step that prints is asked for more this often


class Stint:
    """What one process does for one task instance.

    :param operator: the task, rendered
    :param context: Airflow's context of this try
    """

    def __init__(self, operator: Task, context: Context) -> None:
        self.operator = operator
        self.log = operator.log
        self.request = StepRequest(operator, context)
        self.observer = self.request.observer
        self.life = StepLife(
            self.request,
            context["task_state_store"],
            self.log,
            was_killed=lambda: self._is_ended,
            observer=self.observer,
            pause=self._pause_elsewhere,
        )
        self._begun = context["ti"].start_date
        self._has_retry = bool(context["ti"].try_number <= context["ti"].max_tries)
        self._word = ""  # the service's own for the job's state
        self._is_ended = False  # by the user: a submit that is still under way cancels its own job
        self._is_in_doubt = False  # asked to end, and Airflow could not be asked why
        self._is_uncancelled = False  # ended by the user, and the job could not be cancelled at once

    # -- where Airflow calls in

    def begin(self) -> Any:
        self.observer.phase("templates rendered: try %d begins", self.request.ti.try_number)
        with self._guarded():
            _ = self.request.log_limit  # a mistake there shall not show only after the submit
            return self._go_on(self.life.begin())

    def resume(self, event: Mapping[str, Any]) -> Any:
        with self._guarded():
            handle = None if event.get("reason") == Reason.PAUSED else self.life.resume()
            if handle is None:
                return self._begin_again()
            self.observer.phase("resumed: %s", event.get("reason"))
            if event.get("job") not in (None, handle.name):
                # The old trigger of a cleared task fired late; SQLite gives trigger ids out again.
                self.log.info("This event is about the job %s of an earlier generation", event["job"])
                return self._go_on(handle)
            reason = Reason(event.get("reason", Reason.FINISHED))
            if reason is Reason.UNREACHABLE:
                raise StepConfigError(
                    f"the triggerer cannot see {handle}: {event.get('error')}. Set deferrable=False"
                )
            if reason is Reason.FINISHED and not self.life.jobs.status(handle).state.is_terminal:
                reason = self.wait_here(handle)
            return self._end(handle, reason, str(event.get("error") or ""))

    def recover(self, failure: Mapping[str, Any]) -> Any:
        """Go on after a trigger that crashed or timed out."""
        self.log.warning("The trigger failed (%s); this worker goes on", failure.get("error"))
        for line in failure.get("traceback") or ():
            self.log.warning("%s", line.rstrip())
        with self._guarded():
            handle = self.life.resume()
            if handle is None:
                return self._begin_again()
            return self._end(handle, self.wait_here(handle))

    def on_kill(self) -> None:
        """Ended by the user: cancel. This worker is going away and the task will be tried again: leave the
        job to the next try.
        """
        record = self.life.record
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
        """Cancel, now or at the next pause: a signal may have interrupted what a cancel needs, such as the
        import of a client.
        """
        try:
            self.life.cancel()
            self._is_uncancelled = False
        except Exception as error:  # noqa: BLE001, RUF100 - raised here, it would come up in any code at all
            self._is_uncancelled = True
            self.log.warning("The job could not be cancelled yet: %s", error)

    # -- between

    def _go_on(self, began: JobHandle | Collected) -> Any:
        if isinstance(began, Collected):
            self.log.info("An earlier try collected this result and was killed before it could return it")
            return self._hand_over(began)
        hook = self.request.hook(began.backend, began.conn_id)
        self.operator.job_url = hook.link(began)
        self._settle_doubt()
        if self._defers(hook):
            self._defer(began)
        return self._end(began, self.wait_here(began))

    def _begin_again(self) -> Any:
        """Submit after a pause; Airflow does not watch its own limit for the task meanwhile."""
        end = self._deadlines().execution
        if end is not None and time.time() > end:
            raise AirflowTaskTimeout("the task's execution_timeout passed before there was room for its job")
        return self._go_on(self.life.begin())

    def _end(self, handle: JobHandle, reason: Reason, word: str = "") -> Any:
        self.operator.job_url = self.request.hook(handle.backend, handle.conn_id).link(handle)
        collected = self.life.finish(handle, reason, word or self._word)
        again = self.life.resubmission(collected)
        return self._go_on(again) if again is not None else self._hand_over(collected)

    def _hand_over(self, collected: Collected) -> Any:
        failure = collected.failure
        if failure is None:
            value = hand_over(collected.data["result"])
            self.observer.phase("result handed over")
            self._tell_usage(collected.usage)
            return value
        failure, next_memory = self._with_advice(failure)
        self._tell_usage(collected.usage)
        handle = self.life.record.handle if self.life.record else None
        where = f"{handle} {self.operator.job_url or ''}".strip() if handle else ""
        error = to_exception(failure, where, next_memory)
        if isinstance(error.__cause__, StepFailedError):
            # Airflow shows the frames of this process for it, which say nothing of the step
            self.log.error("%s", error.__cause__)
        raise error

    def _with_advice(self, failure: Failure) -> tuple[Failure, str | None]:
        """Return the failure with what ``on_oom`` makes of it, and what the next try asks for."""
        on_oom, record = self.request.on_oom, self.life.record
        if on_oom is None or record is None or failure.category is not Category.OOM:
            return failure, None
        next_memory, advice = on_oom.advice(self.life.memory_bytes(record), self._has_retry)
        return replace(failure, hint=advice), next_memory

    def _tell_usage(self, used: Mapping[str, Any]) -> None:
        """Log and push what the step used; the step has come to its end whatever becomes of that."""
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
        except Exception as error:  # noqa: BLE001, RUF100 - nothing that the user's DAG depends on
            self.log.warning("The usage of the step could not be pushed: %s", error)

    # -- waiting

    def _defers(self, hook: StepHook) -> bool:
        if self.life.has_found_end:
            return False  # a trigger that fires at once can overtake its own deferral, which costs a try
        if self.operator.deferrable is not None:
            return self.operator.deferrable
        return conf.getboolean("stepop", "deferrable", fallback=True) and not hook.is_host_bound

    def _deadlines(self) -> Deadlines:
        """Airflow does not enforce ``execution_timeout`` while a task is deferred: we do."""
        limit = self.operator.execution_timeout
        if limit is None or self._begun is None:
            return self.life.deadlines(None)
        return self.life.deadlines(self._begun.timestamp() + limit.total_seconds())

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
        """Wait before a submit, without a worker where the task may defer: else those workers that wait for
        room could be all that there are, and none be left for the steps that make room when they end.
        """
        if not self._defers(self.request.own_hook):
            time.sleep(pause_s)
            return
        until, end = time.time() + pause_s, self._deadlines().execution
        trigger = PauseTrigger(until if end is None else min(until, end))
        self.operator.defer(trigger=trigger, method_name="resume")

    def wait_here(self, handle: JobHandle) -> Reason:
        """Wait in the worker, by the rules of the trigger."""
        hook, deadlines = self.request.hook(handle.backend, handle.conn_id), self._deadlines()
        pace = Pace(self.request.poll_interval_s)
        task_log = TaskLog(self.log, hook, handle, self.request.log_limit)
        status, cursor, clock = None, None, Clock()
        while True:
            fresh = None  # nobody is late by an old look
            try:
                fresh = status = hook.status([handle])[handle]
                chunk = None if task_log.is_full else hook.logs({handle: cursor}).get(handle)
                pause_s = pace.after_success()
            except Exception as error:  # an API error is never a job state
                if is_final(error):
                    raise
                chunk, pause_s = None, pace.after_error()
                self.log.warning("No news of %s (%s); asking again in %.0f s", handle, error, pause_s)
            if chunk is not None:
                task_log.write(chunk.lines)
                cursor = chunk.cursor
                pause_s = min(pause_s, LOG_POLL_S) if chunk.lines else pause_s
            self.observer.saw(status)
            self._word = status.description if status is not None else ""
            if reason := deadlines.reason(fresh, clock.now()):
                if reason is Reason.FINISHED:
                    self._write_rest(task_log, cursor)
                return reason
            self._pause(pause_s)

    def _write_rest(self, task_log: TaskLog, cursor: Cursor) -> None:
        """Write what the job printed since the last look; missing lines do not change the result."""
        try:
            for lines in task_log.rest(cursor):
                task_log.write(lines)
        except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the outcome must still be read
            self.log.warning("The last lines of the step could not be read: %s", error)

    def _pause(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while (left_s := end - time.monotonic()) > 0:
            self._settle_doubt()
            time.sleep(min(left_s, DOUBT_S))

    # -- when something goes wrong

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Leave no job behind: either it is cancelled, or a next try will attach to it."""
        try:
            yield
        except TaskDeferred:
            raise
        except AirflowTaskTimeout:
            self._is_ended = True  # Airflow calls on_kill next, and the task is still running for it
            self.log.warning("The task's execution_timeout passed: cancelling its job")
            self.life.cancel(Reason.EXECUTION_TIMEOUT)
            raise
        except KeyboardInterrupt:  # Ctrl-C in dag.test(), where nobody calls on_kill
            self.life.cancel()
            raise
        except Exception as error:
            record = self.life.record
            if record is None or record.collected is not None:
                raise
            if not is_final(error) and self._has_retry and not self._is_ended:
                what = "it goes on, and the next try attaches to it"
                if record.handle is None:
                    what = "it may not be there yet; the next try looks for it, and submits it if it is not"
                raise StepInterruptedError(f"lost touch with {record.name}: {error}; {what}") from error
            self._cancel_quietly()
            raise

    def _cancel_quietly(self) -> None:
        try:
            self.life.cancel()
        except Exception as error:  # noqa: BLE001, RUF100 - the first error is the one to show
            self.log.warning("The job, if there is one, could not be cancelled: %s", error)

    def _settle_doubt(self) -> None:
        """Do what ``on_kill`` could not: it may have interrupted a question to Airflow, or an import."""
        if self._is_uncancelled:
            self._cancel_soon()
        if self._is_in_doubt and (state := self._ask_state()) is not None:
            self._is_in_doubt = False
            if state != "running":
                self.log.info("The task is %s: cancelling its job", state)
                self.life.cancel()

    def _ask_state(self) -> str | None:
        """Return the task instance's state as Airflow has it, or ``None`` when it does not answer in time.

        In a thread of its own: the signal may have interrupted a question, and the channel is not re-entrant.
        """
        answer: list[str | None] = []
        thread = threading.Thread(target=lambda: answer.append(task_state(self.request.labels)), daemon=True)
        thread.start()
        thread.join(ASK_S)
        return answer[0] if answer else None
