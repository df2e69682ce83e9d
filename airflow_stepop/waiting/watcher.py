"""The watcher: polls all jobs of one (backend, connection, scope) for all triggers of a triggerer.

The scope is the host, cluster or region of the jobs (``StepHook.scope``).

:class:`triggers.RemoteStepTrigger` gets the watcher from :func:`watcher_for`, subscribes to its job and
receives updates. The watcher calls the hook in a thread, with all jobs in one call: a thousand triggers cost
one status call.

One loop polls the status and another loop reads the logs, so that slow logs never delay a status. Both loops
end when the last trigger unsubscribes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from airflow_stepop.core.printable import printable
from airflow_stepop.exceptions import IntegrityError, StepopError, WrongHostError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.job import Cursor, JobHandle, JobState, JobStatus, LogLine
from airflow_stepop.waiting.backoff import Backoff
from airflow_stepop.waiting.observer import WATCHER_CALLS, WATCHER_ERRORS, WATCHER_JOBS, count, gauge

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 1.0
CHANGES_INTERVAL_S = 0.25  # between two reads of the changes from a service's watch; a read sends no request
ALL_INTERVAL_S = 60.0  # between two polls of all jobs while a watch runs, since a watch may miss a change
LOG_BATCH = 100  # jobs whose logs one call reads: keeps each call short

Make = Callable[[], Awaitable[StepHook]]  # makes a hook with the current Airflow connection


@dataclass
class Update:
    """News of a job.

    ``status`` is the last known status, and ``lines`` are the new log lines. ``error`` is an error that
    another poll cannot cure.
    """

    status: JobStatus | None = None
    lines: Sequence[LogLine] = ()
    error: StepopError | None = None


class Subscription:
    """One trigger's view of one job; made by :meth:`Watcher.subscribe`."""

    def __init__(self, handle: JobHandle, poll_interval_s: float) -> None:
        self.handle = handle
        self.poll_interval_s = poll_interval_s
        self.cursor: Cursor = None
        self.receipt: str | None = None  # the last one that was in the log: see LogChunk
        self.wants_more = True  # whether the trigger takes more log lines; False when the task log is full
        self._status: JobStatus | None = None
        self._lines: list[LogLine] = []
        self._error: StepopError | None = None
        self._log_error = ""
        self._news = asyncio.Event()

    @property
    def wants_logs(self) -> bool:
        """Whether to read this job's logs now.

        The job must have begun. The trigger must have taken the lines of the last read, so that lines do not
        pile up in memory.
        """
        has_begun = self._status is not None and self._status.state is not JobState.PENDING
        return has_begun and self.wants_more and not self._lines

    def report_status(self, status: JobStatus) -> None:
        if status != self._status:
            self._status = status
            self._news.set()

    def report_lines(self, lines: Sequence[LogLine], cursor: Cursor, receipt: str | None = None) -> None:
        self.cursor = cursor
        self.receipt = receipt or self.receipt
        if lines:
            self._lines.extend(lines)
            self._news.set()

    def report_log_error(self, error: Exception) -> None:
        """Say that the log of this job cannot be read: once, since each look may find the same error."""
        if str(error) != self._log_error:
            self._log_error = str(error)
            log.warning("The log of %s cannot be read: %s", self.handle, printable(self._log_error))

    def report_error(self, error: StepopError) -> None:
        self._error = error
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> Update:
        """Return the next news as soon as there is any.

        After ``timeout_s`` without news, return the last known status and no lines.
        """
        await _wait_for(self._news, timeout_s)
        self._news.clear()
        lines, self._lines = self._lines, []
        return Update(self._status, lines, self._error)


async def _wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for ``event``, at most ``timeout_s``."""
    # Not wait_for(): in Python 3.11 it loses a cancellation that arrives together with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


class Watcher:
    """Polls one hook for the status and the logs of every subscribed job.

    :param hook: the hook to poll; replaced when its Airflow connection has changed
    :param again: makes another hook with the current connection; ``None``: the hook is never replaced
    :param on_empty: called when the last trigger has unsubscribed
    """

    def __init__(
        self, hook: StepHook, again: Make | None = None, on_empty: Callable[[], object] = lambda: None
    ) -> None:
        self.hook = hook
        self._make_hook = again
        self._on_empty = on_empty
        self._subscriptions: dict[JobHandle, set[Subscription]] = {}
        self._known: dict[JobHandle, JobStatus] = {}  # the last status of each job that was polled
        # the subscriptions whose job has begun; the logs of the first ones are read next
        self._begun: OrderedDict[Subscription, None] = OrderedDict()
        self._arrival = asyncio.Event()  # set by each new subscription
        self._status_thread: ThreadPoolExecutor | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def subscribe(self, handle: JobHandle, poll_interval_s: float) -> AsyncIterator[Subscription]:
        """Watch ``handle`` until the block is left. An already known status is reported at once."""
        subscription = Subscription(handle, poll_interval_s)
        self._subscriptions.setdefault(handle, set()).add(subscription)
        if handle in self._known:
            self._report_to(subscription, self._known[handle])
        self._arrival.set()
        self._start()
        try:
            yield subscription
        finally:
            self._forget(subscription)

    def _start(self) -> None:
        if not self._tasks:
            # Status calls have their own thread: slow log calls can occupy all threads of the event loop.
            self._status_thread = ThreadPoolExecutor(1, thread_name_prefix="stepop-status")
            # An empty context: otherwise these loops log into the first subscriber's task log.
            self._tasks = [
                asyncio.create_task(loop(), context=contextvars.Context())
                for loop in (self._watch_status, self._watch_logs)
            ]

    def _forget(self, subscription: Subscription) -> None:
        of_same_job = self._subscriptions[subscription.handle]
        of_same_job.discard(subscription)
        self._begun.pop(subscription, None)
        if not of_same_job:
            del self._subscriptions[subscription.handle]
            self._known.pop(subscription.handle, None)
        if not self._subscriptions:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            if self._status_thread is not None:
                self._status_thread.shutdown(wait=False)
            self._on_empty()

    def _subscriptions_to(self, handles: Iterable[JobHandle]) -> list[Subscription]:
        return [subscription for handle in handles for subscription in self._subscriptions.get(handle, ())]

    def _shortest_interval_s(self) -> float:
        """Return the shortest poll interval that a trigger asks for: one poll serves all of them."""
        return min(s.poll_interval_s for s in self._subscriptions_to(self._subscriptions))

    async def _watch_status(self) -> None:
        """Poll all jobs that are not over, again and again.

        Where the service has a watch (``StepHook.changed_jobs``), only changed jobs are polled in between.
        """
        backoff = Backoff(self._shortest_interval_s())
        while True:
            if backoff.errors:
                await self._reload_connection()
            if self._arrival.is_set() and backoff.may_quicken:
                backoff.quicken()
            self._arrival.clear()
            backoff.poll_interval_s = self._shortest_interval_s()
            handles = [h for h in self._subscriptions if not self._is_over(h)]
            # Called before the poll: this call takes the changes so far, and the poll covers them.
            has_watch = self.hook.changed_jobs() is not None
            pause_s = await self._poll(handles, backoff) if handles else backoff.poll_interval_s
            if has_watch and not backoff.errors:
                pause_s = await self._follow_changes(backoff)
            await self._pause(pause_s, may_end_early=backoff.may_quicken)

    async def _reload_connection(self) -> None:
        """Use the current Airflow connection: a user may have replaced expired credentials."""
        if self._make_hook is None:
            return
        try:
            hook = await self._make_hook()
            is_another = hook.connection != self.hook.connection
        except Exception as error:  # noqa: BLE001, RUF100 - the service's own error matters more, and was logged
            log.warning("%s: the connection cannot be looked up (%s)", self.hook.backend, error)
            return
        if is_another:
            log.info("%s: the connection was changed; using its new values from now on", self.hook.backend)
            self.hook = hook

    async def _follow_changes(self, backoff: Backoff) -> float:
        """Poll only the new jobs and the jobs that the service's watch reports as changed.

        Ends when a poll of all jobs is due (``ALL_INTERVAL_S``), when the watch has ended, or after an error.
        Returns the pause before the next poll of all jobs, seconds; 0 except after an error.
        """
        end, pause_s = time.monotonic() + ALL_INTERVAL_S, 0.0
        while not backoff.errors and time.monotonic() < end:
            await asyncio.sleep(CHANGES_INTERVAL_S)
            changed = self.hook.changed_jobs()
            if changed is None:
                break
            new: list[JobHandle] = []
            if self._arrival.is_set():
                new = [h for h in self._subscriptions if h not in self._known]
            self._arrival.clear()
            own = {h: self._own(h) for h in (*new, *changed) if h in self._subscriptions}
            if handles := [handle for handle in own.values() if not self._is_over(handle)]:
                pause_s = await self._poll(handles, backoff)
        return pause_s if backoff.errors else 0.0

    def _own(self, handle: JobHandle) -> JobHandle:
        """Return the handle of a subscribed job as its trigger has it.

        A hook that reports a change knows the name of the job, and not always the job's nonce.
        """
        return next(iter(self._subscriptions[handle])).handle

    async def _pause(self, pause_s: float, may_end_early: bool) -> None:
        """Wait ``pause_s``; with ``may_end_early``, at most until a trigger subscribes."""
        if may_end_early:
            await _wait_for(self._arrival, pause_s)
        else:
            await asyncio.sleep(pause_s)

    def _is_over(self, handle: JobHandle) -> bool:
        return handle in self._known and self._known[handle].state.is_terminal

    async def _poll(self, handles: Sequence[JobHandle], backoff: Backoff) -> float:
        """Poll the status of ``handles`` and report each status to the job's subscribers.

        Returns the pause before the next poll, seconds.
        """
        tags = {"backend": self.hook.backend}
        count(WATCHER_CALLS, 1, tags)
        gauge(WATCHER_JOBS, len(handles), tags)
        try:
            loop = asyncio.get_running_loop()
            statuses = await loop.run_in_executor(self._status_thread, self.hook.status, handles)
        except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state, whatever its class
            if isinstance(error, StepopError) and error.is_final:
                return await self._after_final_error(error, handles, backoff)
            pause_s = backoff.after_error()
            count(WATCHER_ERRORS, 1, tags)
            log.warning("%s: no status (%s); asking again in %.0f s", self.hook.backend, error, pause_s)
            return pause_s
        self._report(statuses)
        return backoff.after_success()

    async def _after_final_error(
        self, error: StepopError, handles: Sequence[JobHandle], backoff: Backoff
    ) -> float:
        """Report an error that another poll cannot cure to the subscribers of the jobs that it is about.

        Returns the pause before the next poll, seconds.
        """
        if isinstance(error, (IntegrityError, WrongHostError)) and len(handles) > 1:
            # One of the handles is damaged, or of another host. To find out which, poll each job alone
            return max([await self._poll([handle], backoff) for handle in handles])
        for subscription in self._subscriptions_to(handles):
            subscription.report_error(error)
        return backoff.after_error()

    def _report(self, statuses: Mapping[JobHandle, JobStatus]) -> None:
        for handle, status in statuses.items():
            if handle in self._subscriptions:
                self._known[handle] = status
                for subscription in self._subscriptions[handle]:
                    self._report_to(subscription, status)

    def _report_to(self, subscription: Subscription, status: JobStatus) -> None:
        subscription.report_status(status)
        if status.state is not JobState.PENDING and subscription not in self._begun:
            self._begun[subscription] = None
            self._begun.move_to_end(subscription, last=False)  # a job that has just begun is read first

    async def _watch_logs(self) -> None:
        backoff = Backoff(LOG_INTERVAL_S)
        while True:
            waiting = self._next_to_read()
            failed: Exception | None = None
            for first in range(0, len(waiting), LOG_BATCH):
                failed = await self._try_logs(waiting[first : first + LOG_BATCH]) or failed
            pause_s = backoff.after_success() if failed is None else backoff.after_error()
            if failed is not None:
                log.warning("%s: no logs (%s); asking again in %.0f s", self.hook.backend, failed, pause_s)
            await asyncio.sleep(pause_s)

    def _next_to_read(self) -> list[Subscription]:
        """Return the subscriptions whose logs are to be read now.

        Where each log costs a request, the hook limits how many are read per second
        (``StepHook.log_reads_per_second``). The subscriptions then take turns.
        """
        found = list(islice((s for s in self._begun if s.wants_logs), self.hook.log_reads_per_second))
        for subscription in found:
            self._begun.move_to_end(subscription)
        return found

    async def _try_logs(self, batch: Sequence[Subscription]) -> Exception | None:
        """Read the logs of some jobs; return an error that is not that of a single one of them.

        A step may damage its own log, and each step of a host, of a namespace or of an account could so keep
        back the lines of all others. So after an error that is none of the service's API, each log is read by
        itself.
        """
        try:
            await self._read_logs(batch)
        except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the job goes on
            if len(batch) == 1 or self.hook.api_error(error).kind is not Trouble.OTHER:
                return error
            failed = [(one, trouble) for one in batch if (trouble := await self._try_logs([one])) is not None]
            if len(failed) == len(batch):
                return error
            for one, trouble in failed:
                one.report_log_error(trouble)
        return None

    async def _read_logs(self, subscriptions: Sequence[Subscription]) -> None:
        cursors = {s.handle: s.cursor for s in subscriptions}
        chunks = await asyncio.to_thread(self.hook.logs, cursors)
        for subscription in subscriptions:
            chunk = chunks.get(subscription.handle)
            # A read has one cursor per job. It serves no other subscription that is at another cursor
            if chunk is not None and subscription.cursor == cursors[subscription.handle]:
                subscription.report_lines(chunk.lines, chunk.cursor, chunk.receipt)


@dataclass
class _Watchers:
    """The watchers of one event loop.

    :param known: key -> watcher
    :param making: key -> a lock that is held while the watcher is being made
    """

    known: dict[Hashable, Watcher] = field(default_factory=dict)
    making: dict[Hashable, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


# Watchers belong to their event loop: dag.test() runs each trigger in its own loop and closes the loop
# afterwards.
_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watchers] = weakref.WeakKeyDictionary()


async def watcher_for(key: Hashable, make: Make) -> Watcher:
    """Return the running event loop's watcher for ``key``. The first caller's hook serves all callers.

    The caller must subscribe before it awaits anything else. Otherwise the watcher's last subscriber may
    leave in between, and then the watcher is dropped.

    :param make: makes the watcher's hook. Only the first caller's ``make`` is called: a connection look-up
        costs a millisecond, and ten thousand triggers would each do one
    """
    watchers = _watchers.setdefault(asyncio.get_running_loop(), _Watchers())
    async with watchers.making[key]:
        if key not in watchers.known:
            hook = await make()
            watchers.known[key] = Watcher(hook, make, on_empty=lambda: watchers.known.pop(key, None))
        return watchers.known[key]
