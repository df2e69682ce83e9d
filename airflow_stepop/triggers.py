"""The trigger: waits for one job in the triggerer, for every backend."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_stepop.exceptions import IntegrityError, StepConfigError
from airflow_stepop.job import JobHandle, JobStatus, LogLine
from airflow_stepop.registry import create_hook
from airflow_stepop.waiting.deadlines import Clock, Deadlines, Reason
from airflow_stepop.waiting.observer import Observer
from airflow_stepop.waiting.task_log import TaskLog, configured_limit
from airflow_stepop.waiting.task_state import task_state
from airflow_stepop.waiting.watcher import Subscription, Update, Watcher, watcher_for

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.hooks.base import StepHook

LONGEST_PAUSE_S = 300.0  # deadlines are looked at this often whatever is heard: a host may have slept
FIRST_QUESTION_S = 30.0  # after the first trigger of a triggerer began
HOLD_S = 1.0  # a trigger that fires sooner can overtake the end of its own deferral, which costs a try
INSIST_S = (0.5, 1.0, 2.0, 4.0, 6.0)  # pauses between the tries of an end that a user asked for
LOOK_AGAIN_S = 15.0  # between two looks at a job that seems to be late
SECURE_S = 10.0  # so long a task may wait for its outcome to be secured; it is there already
LINES_AT_ONCE = 50  # written to the log before another trigger of this triggerer gets its turn


async def _make_hook(backend: str, conn_id: str | None) -> StepHook:
    """Return a hook that has its connection: the watcher's threads cannot look it up."""
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
    """Write the lines; a thousand other triggers wait for the same event loop."""
    for first in range(0, len(lines), LINES_AT_ONCE):
        task_log.write(lines[first : first + LINES_AT_ONCE])
        await asyncio.sleep(0)


async def _insist(log: Any, do: Callable[[], Awaitable[Any]]) -> Any:
    """Do what nobody will come back for. Airflow gives it 30 seconds: ``[triggerer] on_kill_timeout``."""
    for pause_s in INSIST_S:
        try:
            return await do()
        except Exception as error:  # noqa: BLE001, RUF100 - of whatever kind: the last one is raised
            log.warning("%s; trying again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s)
    return await do()


class _FirstQuestion:
    """The first question of a triggerer takes seconds, and ``on_kill`` has five: one is asked beforehand."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def ask(self, labels: Mapping[str, Any]) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._ask(labels))

    async def _ask(self, labels: Mapping[str, Any]) -> None:
        from asgiref.sync import sync_to_async

        # later than a short step takes: a triggerer writes no log while it loads what answers the question
        await asyncio.sleep(FIRST_QUESTION_S)
        with contextlib.suppress(Exception):  # whatever it is, it is met again when the answer matters
            await sync_to_async(task_state)(labels)


_first_question = _FirstQuestion()


class PauseTrigger(BaseTrigger):
    """Fires when it is time to submit again.

    :param until: seconds since the epoch
    """

    def __init__(self, until: float, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(self.until - time.time(), HOLD_S))
        yield TriggerEvent({"reason": Reason.PAUSED.value})


class RemoteStepTrigger(BaseTrigger):
    """Waits until a job is over or a deadline has passed, streams its log, and fires once.

    It never looks into the outcome: the worker does. All arguments are plain JSON.

    :param handle: the job, as JSON
    :param deadlines: see :class:`airflow_stepop.waiting.deadlines.Deadlines`
    :param poll_interval: seconds between two looks
    :param debug: log every state of the job
    :param waiter: dag_id, run_id, task_id and map_index of the task instance that waits; ``since`` when,
        seconds since the epoch
    :param log_limit: bytes of the task log that the step may take; by default as configured
    """

    def __init__(
        self,
        handle: Mapping[str, Any],
        deadlines: Mapping[str, Any],
        poll_interval: float,
        waiter: Mapping[str, Any],
        log_limit: int | None = None,
        debug: bool = False,
        **_: Any,  # arguments of a newer version: the triggerer may be older than the worker
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        try:
            self.handle = JobHandle.from_json(handle)
            self.deadlines = Deadlines.from_json(deadlines)
        except Exception as error:
            # a triggerer takes a TypeError for a trigger that cannot be made, and dies of anything else
            raise TypeError(f"these are no arguments of {type(self).__name__}: {error}") from error
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
            reason, error = await self._wait()
            await asyncio.sleep(self._hold_s())
        except asyncio.CancelledError:
            # dag.test() calls no on_kill: there, an interruption is the user's Ctrl-C.
            if self.task_instance is None and self._watcher is not None:
                self._watcher.hook.cancel(self.handle)
            raise
        self._has_fired = True
        yield TriggerEvent({"reason": reason.value, "job": self.handle.name, "error": error})

    def _hold_s(self) -> float:
        """Return the seconds that the worker which deferred may still need to end: Airflow takes the resumed
        task for a failed one when it hears of the worker's end only after the task is queued again.
        """
        waited_s = time.time() - float(self.waiter.get("since", 0))
        return min(max(HOLD_S - waited_s, 0), HOLD_S)  # whatever the clocks of two hosts say

    async def _wait(self) -> tuple[Reason, str]:
        limit = configured_limit() if self.log_limit is None else self.log_limit
        backend, conn_id = self.handle.backend, self.handle.conn_id
        make = partial(_make_hook, backend, conn_id)
        self._watcher = watcher = await watcher_for((backend, conn_id, self.handle.scope), make)
        async with watcher.subscribe(self.handle, self.poll_interval) as subscription:
            task_log = TaskLog(self.log, watcher.hook, self.handle, limit)
            reason, error = await self._until_over(watcher, subscription, task_log)
            if reason.is_deadline:
                self.log.warning("%s: %s; it is being cancelled", self.handle, reason.value)
                await self._cancel()
            if reason is Reason.FINISHED:
                await self._secure(watcher.hook)
            task_log.hook = watcher.hook  # another one, if the connection was changed meanwhile
            if reason is not Reason.UNREACHABLE:
                await self._drain(subscription, task_log)
        return reason, error

    async def _until_over(
        self, watcher: Watcher, subscription: Subscription, task_log: TaskLog
    ) -> tuple[Reason, str]:
        clock = Clock()
        observer = Observer(self.waiter, self.log if self.debug else None, self.log)
        update, pause_s = Update(), LONGEST_PAUSE_S
        while True:
            left_s = self.deadlines.next_after(update.status, clock.now())
            update = await subscription.next(min(left_s or pause_s, pause_s))
            pause_s = LONGEST_PAUSE_S
            await _write(task_log, update.lines)
            subscription.wants_more = not task_log.is_full
            observer.saw(update.status)
            if isinstance(update.error, IntegrityError):
                raise update.error  # the worker goes by the handle of the record
            if update.error is not None:
                return Reason.UNREACHABLE, str(update.error)
            reason, status = self.deadlines.reason(update.status, clock.now()), update.status
            if reason is not None and reason.goes_by_status:
                status = await self._look(watcher.hook)  # what is known may be old: the API was away, say
                reason = self.deadlines.reason(status, clock.now())
                pause_s = LOOK_AGAIN_S
            if reason is not None:
                return reason, status.description if reason.is_deadline and status else ""

    async def _look(self, hook: StepHook) -> JobStatus | None:
        """Return how the job stands now; ``None`` while that cannot be had."""
        try:
            return await asyncio.to_thread(hook.fresh_status, self.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state
            self.log.warning("%s seems to be late, and cannot be looked at: %s", self.handle, error)
            return None

    async def _drain(self, subscription: Subscription, task_log: TaskLog) -> None:
        """Write what the job printed since the last look; missing lines do not change the result."""
        subscription.wants_more = False  # whoever reads its log now would read from the same place
        lines = (await subscription.next(0)).lines
        rest = task_log.rest(subscription.cursor)
        await _write(task_log, lines)
        try:
            while lines := await asyncio.to_thread(next, rest, ()):
                await _write(task_log, lines)
        except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the outcome must still be read
            self.log.warning("The last lines of %s could not be read: %s", self.handle, error)

    async def _secure(self, hook: StepHook) -> None:
        try:
            async with asyncio.timeout(SECURE_S):
                await asyncio.to_thread(hook.preserve_outcome, self.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - the worker reads the outcome, if it comes in time
            said = str(error) or type(error).__name__
            self.log.warning("The outcome of %s could not be secured: %s", self.handle, said)

    async def _cancel(self) -> None:
        watcher, handle = self._watcher, self.handle
        hook = watcher.hook if watcher is not None else await _make_hook(handle.backend, handle.conn_id)
        try:
            await asyncio.to_thread(hook.cancel, handle)
        except StepConfigError as error:
            self.log.warning("%s could not be cancelled from here: %s", handle, error)

    async def on_kill(self) -> None:
        """Cancel the job when the user ended the task.

        Airflow 3.3 also calls this when the trigger moves to another triggerer: then the task is still
        deferred, and the job must go on. (A cleared task is deferred no longer only after this; its next try
        cancels the job.)
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
