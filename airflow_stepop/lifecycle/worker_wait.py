"""Waits for a job in the worker, where a task does not defer. Called by the worker session."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import is_final
from airflow_stepop.waiting.backoff import Backoff
from airflow_stepop.waiting.deadlines import Clock, Deadlines, StopReason
from airflow_stepop.waiting.task_log import TaskLog

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import Cursor, JobHandle, JobStatus
    from airflow_stepop.lifecycle.request import StepRequest
    from airflow_stepop.waiting.observer import Observer

LOG_POLL_S = 1.0  # poll interval while the step prints
DOUBT_S = 0.5  # between two checks for something that on_kill left undone


class WorkerWait:
    """One wait for a job, by the same rules as the trigger.

    :param settle: called again and again while this object waits; finishes the work of ``on_kill``
    :ivar native_state: the service's description of the job's state, as it was last seen
    :ivar receipt: the last receipt that was in the job's log: see :class:`~airflow_stepop.job.LogChunk`
    """

    def __init__(
        self, request: StepRequest, log: Logger, observer: Observer, settle: Callable[[], None]
    ) -> None:
        self._request = request
        self._log = log
        self._observer = observer
        self._settle = settle
        self.native_state = ""
        self.receipt: str | None = None

    def until_over(
        self, handle: JobHandle, deadlines: Deadlines, note_end: Callable[[JobStatus], None]
    ) -> StopReason:
        """Wait until the job has ended or a deadline has passed; return why waiting ended.

        :param note_end: is told the end of the job before anything else is done
        """
        hook, backoff = self._request.hook(handle.backend, handle.conn_id), self._backoff()
        task_log = TaskLog(self._log, hook, handle, self._request.log_limit)
        status, cursor, clock = None, None, Clock()
        while True:
            fresh = None  # a deadline must not pass on an old status
            try:
                fresh = status = hook.status([handle])[handle]
                chunk = None if task_log.is_full else hook.logs({handle: cursor}).get(handle)
                pause_s = backoff.after_success()
            except Exception as error:  # an API error is never a job state
                if is_final(error):
                    raise
                chunk, pause_s = None, backoff.after_error()
                self._log.warning("No news of %s (%s); asking again in %.0f s", handle, error, pause_s)
            if chunk is not None:
                task_log.write(chunk.lines)
                cursor, self.receipt = chunk.cursor, chunk.receipt or self.receipt
                pause_s = min(pause_s, LOG_POLL_S) if chunk.lines else pause_s
            self._observer.status_seen(status)
            self.native_state = status.description if status is not None else ""
            if reason := deadlines.reason(fresh, clock.now()):
                if reason is StopReason.FINISHED and fresh is not None:
                    note_end(fresh)
                    self._preserve_outcome(hook, handle)
                    self._write_rest(task_log, cursor)
                return reason
            self._pause(pause_s)

    def _backoff(self) -> Backoff:
        return Backoff(self._request.poll_interval_s)

    def _preserve_outcome(self, hook: StepHook, handle: JobHandle) -> None:
        """Copy what is lost with the job's machine to the control plane; an error is only logged."""
        try:
            hook.preserve_outcome(handle)
        except Exception as error:  # noqa: BLE001, RUF100 - the outcome can still be read while the machine exists
            message = str(error) or type(error).__name__
            self._log.warning("The outcome of %s could not be preserved: %s", handle, message)

    def _write_rest(self, task_log: TaskLog, cursor: Cursor) -> None:
        """Write the lines that the job printed since the last read; an error does not change the result."""
        try:
            for lines in task_log.rest(cursor):
                task_log.write(lines)
        except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the outcome must still be read
            self._log.warning("The last lines of the step could not be read: %s", error)
        self.receipt = task_log.receipt or self.receipt

    def _pause(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while (left_s := end - time.monotonic()) > 0:
            self._settle()
            time.sleep(min(left_s, DOUBT_S))
