"""The triggers of a deferred step, for every backend.

The worker session defers with :class:`RemoteStepTrigger` to wait for a job, and with :class:`PauseTrigger` to
wait before another submit. Airflow's triggerer runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_stepop.core.stored_json import is_kept_by_airflow
from airflow_stepop.exceptions import IntegrityError, StepConfigError
from airflow_stepop.hooks.common.receipts import signed_receipt
from airflow_stepop.job import JobHandle, JobStatus, LogLine
from airflow_stepop.registry import create_hook
from airflow_stepop.waiting.deadlines import Clock, Deadlines, StopReason
from airflow_stepop.waiting.observer import Observer
from airflow_stepop.waiting.task_log import TaskLog, configured_limit
from airflow_stepop.waiting.task_state import task_state
from airflow_stepop.waiting.watcher import Subscription, Update, Watcher, watcher_for

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.hooks.base import StepHook

LONGEST_PAUSE_S = 300.0  # deadlines are checked at least this often, since the host may have slept
FIRST_QUESTION_S = 30.0  # from the start of a triggerer's first trigger until _FirstQuestion asks Airflow
# A trigger fires at the earliest this long after the task was deferred. If it fires before the worker has
# exited, Airflow fails the resumed task
HOLD_S = 1.0
INSIST_S = (0.5, 1.0, 2.0, 4.0, 6.0)  # pauses between the attempts of each call that on_kill makes
LOOK_AGAIN_S = 15.0  # between two polls of a job that seems to be late
SECURE_S = 10.0  # longest time for preserving the outcome; the job has ended, so the outcome exists
LINES_AT_ONCE = 50  # log lines written before the triggerer's other triggers get a turn


async def _make_hook(backend: str, conn_id: str | None) -> StepHook:
    """Return a hook that has its Airflow connection already: the watcher's threads cannot look it up."""
    return create_hook(backend, conn_id, None if conn_id is None else await _connection(conn_id))


async def _connection(conn_id: str) -> Connection:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException
    from asgiref.sync import sync_to_async

    try:
        return await BaseHook.aget_connection(conn_id)
    except (AirflowNotFoundException, AttributeError):  # dag.test() cannot await connections of its database
        return await sync_to_async(BaseHook.get_connection)(conn_id)


async def _write(task_log: TaskLog, lines: Sequence[LogLine]) -> None:
    """Write the lines, and let other triggers run in between: a thousand may share this event loop."""
    for first in range(0, len(lines), LINES_AT_ONCE):
        task_log.write(lines[first : first + LINES_AT_ONCE], has_more=first + LINES_AT_ONCE < len(lines))
        await asyncio.sleep(0)


async def _insist(log: Any, do: Callable[[], Awaitable[Any]]) -> Any:
    """Call ``do`` and repeat the call after errors; raise the last error.

    When the user has ended the task, no later try ends the job. So :meth:`RemoteStepTrigger.on_kill` repeats
    its calls. Airflow gives ``on_kill`` 30 seconds (``[triggerer] on_kill_timeout``).
    """
    for pause_s in INSIST_S:
        try:
            return await do()
        except Exception as error:  # noqa: BLE001, RUF100 - any error; the last one is raised
            log.warning("%s; trying again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s)
    return await do()


def _end(status: JobStatus | None) -> dict[str, Any] | None:
    """Return the end of a job for the event, which Airflow stores until a worker resumes the task."""
    if status is None or not status.state.is_end:
        return None
    end = replace(status, finished_at=status.finished_at or time.time())
    if not is_kept_by_airflow(end.to_json()):  # the service's words may be no valid Unicode
        end = JobStatus(end.state, finished_at=time.time())
    return end.to_json()


class _FirstQuestion:
    """Asks Airflow for a task's state once per triggerer, so that a later ``on_kill`` is answered quickly.

    The first such call takes seconds, since it loads modules, and the time of ``on_kill`` is limited. The
    answer of this first call is not used.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def ask(self, labels: Mapping[str, Any]) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._ask(labels))

    async def _ask(self, labels: Mapping[str, Any]) -> None:
        from asgiref.sync import sync_to_async

        # While the modules load, the triggerer writes no log. After this pause a short step has ended.
        await asyncio.sleep(FIRST_QUESTION_S)
        with contextlib.suppress(Exception):  # on_kill asks again, and handles the error
            await sync_to_async(task_state)(labels)


_first_question = _FirstQuestion()


class PauseTrigger(BaseTrigger):
    """Fires when the pause before another submit is over. It holds no worker slot.

    :param until: the end of the pause, seconds since the epoch
    """

    def __init__(self, until: float, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(self.until - time.time(), HOLD_S))
        yield TriggerEvent({"reason": StopReason.PAUSED.value})


class RemoteStepTrigger(BaseTrigger):
    """Waits until a job has ended or a deadline has passed, and then fires once.

    **How it works:** The trigger subscribes to the watcher of the job's backend, which polls all jobs
    together. The trigger writes the step's log lines into the task log. After a deadline the trigger cancels
    the job. When the user ends the task, :meth:`on_kill` cancels the job.

    **What it does not do:** The trigger never reads the outcome. The resumed worker does that.

    All arguments are plain JSON.

    :param handle: the job, as JSON
    :param deadlines: see :class:`airflow_stepop.waiting.deadlines.Deadlines`
    :param poll_interval: seconds between two polls
    :param waiter: ``dag_id``, ``run_id``, ``task_id`` and ``map_index`` of the deferred task instance, and
        ``since``: when it was deferred, seconds since the epoch
    :param log_limit: bytes of the task log that the step may use; ``None``: ``[stepop] log_limit``
    :param debug: log every state of the job
    :raises TypeError: ``handle`` or ``deadlines`` is damaged
    """

    def __init__(
        self,
        handle: Mapping[str, Any],
        deadlines: Mapping[str, Any],
        poll_interval: float,
        waiter: Mapping[str, Any],
        log_limit: int | None = None,
        debug: bool = False,
        **_: Any,  # a newer worker may send more arguments to an older triggerer
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        try:
            self.handle = JobHandle.from_json(handle)
            self.deadlines = Deadlines.from_json(deadlines)
        except Exception as error:
            # The triggerer fails the one trigger after a TypeError, and crashes after any other error.
            raise TypeError(f"wrong arguments for {type(self).__name__}: {error}") from error
        self.poll_interval = poll_interval
        self.waiter = dict(waiter)
        self.log_limit = log_limit
        self.debug = debug
        self._watcher: Watcher | None = None
        self._has_fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = {
            "handle": self.handle.to_json(),
            "deadlines": self.deadlines.to_json(),
            "poll_interval": self.poll_interval,
            "waiter": self.waiter,
            "log_limit": self.log_limit,
            **({"debug": True} if self.debug else {}),
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.task_instance is not None:  # in a triggerer
            _first_question.ask(self.waiter)
        try:
            reason, text, seen = await self._wait()
            await asyncio.sleep(self._hold_s())
        except asyncio.CancelledError:
            # dag.test() does not call on_kill. In dag.test() a cancellation is the user's Ctrl-C.
            if self.task_instance is None and self._watcher is not None:
                self._watcher.hook.cancel(self.handle)
            raise
        self._has_fired = True
        yield TriggerEvent({"reason": reason.value, "job": self.handle.name, "error": text, **seen})

    def _hold_s(self) -> float:
        """Return the seconds to wait before the trigger fires, so that the worker that deferred can exit.

        If Airflow learns of the worker's exit only after the resumed task is queued, Airflow takes the task
        for a failed one.
        """
        waited_s = time.time() - float(self.waiter.get("since", 0))
        return min(max(HOLD_S - waited_s, 0), HOLD_S)  # bounded, since the clocks of two hosts differ

    async def _wait(self) -> tuple[StopReason, str, dict[str, Any]]:
        """Wait for the end of the job or for a deadline, and do what must follow at once.

        Returns the reason and a text for the resumed worker, see :meth:`_until_over`, and what was seen: how
        the job ended (``end``), and its receipt (``receipt``).
        """
        limit = configured_limit() if self.log_limit is None else self.log_limit
        backend, conn_id = self.handle.backend, self.handle.conn_id
        make = partial(_make_hook, backend, conn_id)
        self._watcher = watcher = await watcher_for((backend, conn_id, self.handle.scope), make)
        async with watcher.subscribe(self.handle, self.poll_interval) as subscription:
            task_log = TaskLog(self.log, watcher.hook, self.handle, limit)
            reason, text, status = await self._until_over(watcher, subscription, task_log)
            if reason.is_deadline:
                self.log.warning("%s: %s; it is being cancelled", self.handle, reason.value)
                await self._cancel()
            if reason is StopReason.FINISHED:
                await self._preserve_outcome(watcher.hook)
            task_log.hook = watcher.hook  # the watcher has a new hook if the connection was changed
            if reason is not StopReason.UNREACHABLE:
                await self._drain(subscription, task_log)
            receipt = task_log.receipt or subscription.receipt
        end = _end(status) if reason is StopReason.FINISHED else None
        seen = {"end": end, "receipt": signed_receipt(self.handle, receipt) if receipt else None}
        return reason, text, {name: value for name, value in seen.items() if value is not None}

    async def _until_over(
        self, watcher: Watcher, subscription: Subscription, task_log: TaskLog
    ) -> tuple[StopReason, str, JobStatus | None]:
        """Take updates from the watcher and write log lines, until there is a reason to stop.

        Returns the reason, a text for the resumed worker, and the last status of the job. The text is the
        error if the job is ``UNREACHABLE``, the service's description of the job's state after a deadline,
        else nothing.

        :raises IntegrityError: the trigger's handle is damaged
        """
        clock = Clock()
        observer = Observer(self.waiter, self.log if self.debug else None, self.log)
        update, pause_s = Update(), LONGEST_PAUSE_S
        while True:
            left_s = self.deadlines.next_after(update.status, clock.now())
            update = await subscription.next(min(left_s or pause_s, pause_s))
            pause_s = LONGEST_PAUSE_S
            await _write(task_log, update.lines)
            subscription.wants_more = not task_log.is_full
            observer.status_seen(update.status)
            if isinstance(update.error, IntegrityError):
                raise update.error  # the trigger fails; the resumed worker uses the handle in the record
            if update.error is not None:
                return StopReason.UNREACHABLE, str(update.error), None
            reason, status = self.deadlines.reason(update.status, clock.now()), update.status
            if reason is not None and reason.needs_fresh_status:
                # the last status may be old, for example after an outage of the API
                status = await self._fresh_status(watcher.hook)
                reason = self.deadlines.reason(status, clock.now())
                pause_s = LOOK_AGAIN_S
            if reason is not None:
                return reason, status.description if reason.is_deadline and status else "", status

    async def _fresh_status(self, hook: StepHook) -> JobStatus | None:
        """Return the job's current status, or ``None`` if it cannot be read now."""
        try:
            return await asyncio.to_thread(hook.fresh_status, self.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state
            self.log.warning("%s seems to be late, but its status cannot be read: %s", self.handle, error)
            return None

    async def _drain(self, subscription: Subscription, task_log: TaskLog) -> None:
        """Write the lines that the job printed since the last read; an error does not change the result."""
        subscription.wants_more = False  # otherwise the watcher reads the same lines again
        lines = (await subscription.next(0)).lines
        rest = task_log.rest(subscription.cursor)
        await _write(task_log, lines)
        try:
            while lines := await asyncio.to_thread(next, rest, ()):
                await _write(task_log, lines)
        except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the outcome must still be read
            self.log.warning("The last lines of %s could not be read: %s", self.handle, error)

    async def _preserve_outcome(self, hook: StepHook) -> None:
        """Copy what is lost with the job's machine to the control plane; an error is only logged."""
        try:
            async with asyncio.timeout(SECURE_S):
                await asyncio.to_thread(hook.preserve_outcome, self.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - the worker can still read the outcome while the machine exists
            message = str(error) or type(error).__name__
            self.log.warning("The outcome of %s could not be preserved: %s", self.handle, message)

    async def _cancel(self) -> None:
        watcher, handle = self._watcher, self.handle
        hook = watcher.hook if watcher is not None else await _make_hook(handle.backend, handle.conn_id)
        try:
            await asyncio.to_thread(hook.cancel, handle)
        except StepConfigError as error:
            self.log.warning("%s could not be cancelled from here: %s", handle, error)

    async def on_kill(self) -> None:
        """Cancel the job if the user ended the task.

        Airflow 3.3 also calls this method when the trigger moves to another triggerer. The task is then still
        deferred, and the job must go on. A task that the user has cleared is also still deferred during this
        call; its next try cancels the job.
        """
        from asgiref.sync import sync_to_async

        if self._has_fired:
            return
        state = await _insist(self.log, lambda: sync_to_async(task_state)(self.waiter))
        if state == "deferred":
            self.log.info("%s goes on: the task is still deferred (the trigger moves elsewhere)", self.handle)
            return
        self.log.info("The task is %s: cancelling %s", state, self.handle)
        await _insist(self.log, self._cancel)
