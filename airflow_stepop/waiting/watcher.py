"""The watcher: polls all jobs of one (backend, connection, scope) for all triggers of a triggerer.

:class:`triggers.RemoteStepTrigger` gets the watcher from :func:`watcher_for`, subscribes to its job and
receives updates. The watcher calls the hook in a thread, with all jobs in one call: a thousand triggers cost
one status call.

Two loops poll the status and read the logs, so that slow logs never delay a status. Both loops end when the
last trigger unsubscribes.
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

from airflow_stepop.exceptions import IntegrityError, StepopError, WrongHostError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.job import Cursor, JobHandle, JobState, JobStatus, LogLine
from airflow_stepop.waiting.backoff import Backoff
from airflow_stepop.waiting.observer import WATCHER_CALLS, WATCHER_ERRORS, WATCHER_JOBS, count, gauge

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 1.0
CHANGES_INTERVAL_S = 0.25  # between two reads of the changes from a service's watch; a read sends no request
ALL_INTERVAL_S = 60.0  # between two polls of all jobs while a watch runs, since a watch may miss a change
LOG_BATCH = 100  # jobs whose logs one call reads: keeps each call short


Make = Callable[[], Awaitable[StepHook]]


@dataclass
class Update:
    """News of a job.

    ``status`` is the last known status, and ``lines`` are the new log lines. ``error`` is permanent: another
    poll cannot help.
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
        self.wants_more = True  # log lines; False when the task log is full
        self._status: JobStatus | None = None
        self._lines: list[LogLine] = []
        self._error: StepopError | None = None
        self._news = asyncio.Event()

    @property
    def wants_logs(self) -> bool:
        """Whether to read this job's logs now.

        The job must have begun. The trigger must have taken the last lines, so that lines do not pile up in
        memory.
        """
        has_begun = self._status is not None and self._status.state is not JobState.PENDING
        return has_begun and self.wants_more and not self._lines

    def report_status(self, status: JobStatus) -> None:
        if status != self._status:
            self._status = status
            self._news.set()

    def report_lines(self, lines: Sequence[LogLine], cursor: Cursor) -> None:
        self.cursor = cursor
        if lines:
            self._lines.extend(lines)
            self._news.set()

    def report_error(self, error: StepopError) -> None:
        self._error = error
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> Update:
        """Return the next news as soon as there is any; after ``timeout_s``, return the last known status."""
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
    :param again: makes a hook with the current connection; ``None``: the hook is never replaced
    :param on_empty: called when the last trigger has unsubscribed
    """

    def __init__(
        self, hook: StepHook, again: Make | None = None, on_empty: Callable[[], object] = lambda: None
    ) -> None:
        self.hook = hook
        self._again = again
        self._on_empty = on_empty
        self._subscriptions: dict[JobHandle, set[Subscription]] = {}
        self._known: dict[JobHandle, JobStatus] = {}
        self._begun: OrderedDict[Subscription, None] = OrderedDict()  # in the order of the next log reads
        self._arrival = asyncio.Event()
        self._asking: ThreadPoolExecutor | None = None
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
            # The status has its own thread: slow log calls can occupy all threads of the event loop.
            self._asking = ThreadPoolExecutor(1, thread_name_prefix="stepop-status")
            # An empty context: otherwise these loops log into the first subscriber's task log.
            self._tasks = [
                asyncio.create_task(loop(), context=contextvars.Context())
                for loop in (self._watch_status, self._watch_logs)
            ]

    def _forget(self, subscription: Subscription) -> None:
        others = self._subscriptions[subscription.handle]
        others.discard(subscription)
        self._begun.pop(subscription, None)
        if not others:
            del self._subscriptions[subscription.handle]
            self._known.pop(subscription.handle, None)
        if not self._subscriptions:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            if self._asking is not None:
                self._asking.shutdown(wait=False)
            self._on_empty()

    def _all(self) -> list[Subscription]:
        return [subscription for some in self._subscriptions.values() for subscription in some]

    def _of(self, handles: Iterable[JobHandle]) -> list[Subscription]:
        return [subscription for handle in handles for subscription in self._subscriptions.get(handle, ())]

    async def _watch_status(self) -> None:
        backoff = Backoff(min(s.poll_interval_s for s in self._all()))
        while True:
            if backoff.errors:
                await self._reload_connection()
            if self._arrival.is_set() and backoff.may_quicken:
                backoff.quicken()
            self._arrival.clear()
            backoff.poll_interval_s = min(s.poll_interval_s for s in self._all())
            handles = [h for h in self._subscriptions if not self._is_over(h)]
            # Called before the poll: only changes that arrive after the poll began are new.
            follows_changes = self.hook.changed_jobs() is not None
            pause_s = await self._ask(handles, backoff) if handles else backoff.poll_interval_s
            if follows_changes and not backoff.errors:
                pause_s = await self._follow(backoff)
            await self._pause(pause_s, may_end_early=backoff.may_quicken)

    async def _reload_connection(self) -> None:
        """Use the current Airflow connection: a user may have replaced expired credentials."""
        if self._again is None:
            return
        try:
            hook = await self._again()
            is_another = hook.connection != self.hook.connection
        except Exception as error:  # noqa: BLE001, RUF100 - the error of the service matters more, and was logged
            log.warning("%s: the connection cannot be looked up (%s)", self.hook.backend, error)
            return
        if is_another:
            log.info("%s: the connection was changed; using it from now on", self.hook.backend)
            self.hook = hook

    async def _follow(self, backoff: Backoff) -> float:
        """Poll only the new jobs and the jobs that the service's watch reports as changed.

        Ends when a poll of all jobs is due (``ALL_INTERVAL_S``), when the watch has ended, or after an error.
        Returns the pause before the poll of all jobs, seconds.
        """
        end, pause_s = time.monotonic() + ALL_INTERVAL_S, 0.0
        while not backoff.errors and time.monotonic() < end:
            await asyncio.sleep(CHANGES_INTERVAL_S)
            changed = self.hook.changed_jobs()
            if changed is None:
                break
            new = [h for h in self._subscriptions if h not in self._known] if self._arrival.is_set() else []
            self._arrival.clear()
            handles = {h for h in (*new, *changed) if h in self._subscriptions and not self._is_over(h)}
            if handles:
                pause_s = await self._ask(list(handles), backoff)
        return pause_s if backoff.errors else 0.0

    async def _pause(self, pause_s: float, may_end_early: bool) -> None:
        if not may_end_early:
            await asyncio.sleep(pause_s)
            return
        await _wait_for(self._arrival, pause_s)

    def _is_over(self, handle: JobHandle) -> bool:
        return handle in self._known and self._known[handle].state.is_terminal

    async def _ask(self, handles: Sequence[JobHandle], backoff: Backoff) -> float:
        """Poll the status of ``handles`` and report each status to the job's subscribers.

        Returns the pause before the next poll, seconds.
        """
        tags = {"backend": self.hook.backend}
        count(WATCHER_CALLS, 1, tags)
        gauge(WATCHER_JOBS, len(handles), tags)
        try:
            loop = asyncio.get_running_loop()
            statuses = await loop.run_in_executor(self._asking, self.hook.status, handles)
        except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state, whatever its class
            if isinstance(error, StepopError) and error.is_final:
                if isinstance(error, (IntegrityError, WrongHostError)) and len(handles) > 1:
                    # One handle is damaged, or of another host: poll each alone
                    return max([await self._ask([handle], backoff) for handle in handles])
                for subscription in self._of(handles):
                    subscription.report_error(error)
                return backoff.after_error()
            pause_s = backoff.after_error()
            count(WATCHER_ERRORS, 1, tags)
            log.warning("%s: no status (%s); asking again in %.0f s", self.hook.backend, error, pause_s)
            return pause_s
        self._report(statuses)
        return backoff.after_success()

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
            self._begun.move_to_end(subscription, last=False)

    async def _watch_logs(self) -> None:
        backoff = Backoff(LOG_INTERVAL_S)
        while True:
            pause_s = backoff.after_success()
            waiting = self._next_to_read()
            for first in range(0, len(waiting), LOG_BATCH):
                try:
                    await self._read_logs(waiting[first : first + LOG_BATCH])
                except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the job goes on
                    pause_s = backoff.after_error()
                    log.warning("%s: no logs (%s); asking again in %.0f s", self.hook.backend, error, pause_s)
            await asyncio.sleep(pause_s)

    def _next_to_read(self) -> list[Subscription]:
        """Return the subscriptions whose logs are to be read now.

        Where each log costs a request (``StepHook.log_reads_per_second``), a few are read at a time, in turn.
        """
        found = list(islice((s for s in self._begun if s.wants_logs), self.hook.log_reads_per_second))
        for subscription in found:
            self._begun.move_to_end(subscription)
        return found

    async def _read_logs(self, subscriptions: Sequence[Subscription]) -> None:
        cursors = {s.handle: s.cursor for s in subscriptions}
        chunks = await asyncio.to_thread(self.hook.logs, cursors)
        for subscription in subscriptions:
            chunk = chunks.get(subscription.handle)
            if chunk is not None and subscription.cursor == cursors[subscription.handle]:
                subscription.report_lines(chunk.lines, chunk.cursor)


@dataclass
class _Watchers:
    """The watchers of one event loop."""

    known: dict[Hashable, Watcher] = field(default_factory=dict)
    making: dict[Hashable, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


# Watchers belong to their event loop: dag.test() runs each trigger in its own loop and closes the loop
# afterwards.
_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watchers] = weakref.WeakKeyDictionary()


async def watcher_for(key: Hashable, make: Make) -> Watcher:
    """Return the running event loop's watcher for ``key``. The first caller's hook serves all callers.

    The caller must subscribe before it awaits anything else. In between, the watcher's last subscriber may
    leave, and then the watcher is dropped.

    :param make: makes the watcher's hook. Called once per watcher, since a connection look-up costs a
        millisecond and ten thousand triggers would each do one
    """
    watchers = _watchers.setdefault(asyncio.get_running_loop(), _Watchers())
    async with watchers.making[key]:
        if key not in watchers.known:
            hook = await make()
            watchers.known[key] = Watcher(hook, make, on_empty=lambda: watchers.known.pop(key, None))
        return watchers.known[key]
