"""One watcher per (backend, connection, scope) in a triggerer: a thousand triggers, one status call.

A trigger subscribes to its job and gets updates; the watcher asks the hook for all jobs at once, in a thread.
Status and logs are asked for by two loops, so that slow logs never hold up a status. The last subscriber that
leaves ends both.
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
from airflow_stepop.waiting.backoff import Pace
from airflow_stepop.waiting.observer import WATCHER_CALLS, WATCHER_ERRORS, WATCHER_JOBS, count, gauge

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 1.0
CHANGES_INTERVAL_S = 0.25  # between two looks at what a service has told by itself, which costs no request
ALL_INTERVAL_S = 60.0  # between two questions for all jobs of such a service: it may forget to tell something
LOG_BATCH = 100  # jobs whose logs one call asks for: a call stays short, whoever waits


Make = Callable[[], Awaitable[StepHook]]


@dataclass
class Update:
    """What is new about a job. ``error`` means that asking again cannot help."""

    status: JobStatus | None = None
    lines: Sequence[LogLine] = ()
    error: StepopError | None = None


class Subscription:
    """One trigger's view of one job; made by :meth:`Watcher.subscribe`."""

    def __init__(self, handle: JobHandle, poll_interval_s: float) -> None:
        self.handle = handle
        self.poll_interval_s = poll_interval_s
        self.cursor: Cursor = None
        self.wants_more = True  # of the log, whose reader may have enough
        self._status: JobStatus | None = None
        self._lines: list[LogLine] = []
        self._error: StepopError | None = None
        self._news = asyncio.Event()

    @property
    def wants_logs(self) -> bool:
        """Whether the job may print, and the last lines were taken: nothing piles up in memory."""
        has_begun = self._status is not None and self._status.state is not JobState.PENDING
        return has_begun and self.wants_more and not self._lines

    def tell_status(self, status: JobStatus) -> None:
        if status != self._status:
            self._status = status
            self._news.set()

    def tell_lines(self, lines: Sequence[LogLine], cursor: Cursor) -> None:
        self.cursor = cursor
        if lines:
            self._lines.extend(lines)
            self._news.set()

    def tell_error(self, error: StepopError) -> None:
        self._error = error
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> Update:
        """Return what is new as soon as there is something, or after ``timeout_s`` the last known status."""
        await _heard(self._news, timeout_s)
        self._news.clear()
        lines, self._lines = self._lines, []
        return Update(self._status, lines, self._error)


async def _heard(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for ``event``, at most ``timeout_s``."""
    # Not wait_for(): in Python 3.11 it forgets a cancellation that comes together with the event
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


class Watcher:
    """Asks one hook for the status and the logs of every subscribed job.

    :param hook: the one that asks now; another one takes its place when its connection was changed
    :param again: makes such a hook, with the connection as it is then
    """

    def __init__(
        self, hook: StepHook, again: Make | None = None, on_empty: Callable[[], object] = lambda: None
    ) -> None:
        self.hook = hook
        self._again = again
        self._on_empty = on_empty
        self._subscriptions: dict[JobHandle, set[Subscription]] = {}
        self._known: dict[JobHandle, JobStatus] = {}
        self._begun: OrderedDict[Subscription, None] = OrderedDict()  # the one to be read next is the first
        self._arrival = asyncio.Event()
        self._asking: ThreadPoolExecutor | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def subscribe(self, handle: JobHandle, poll_interval_s: float) -> AsyncIterator[Subscription]:
        """Watch ``handle`` until the block is left. A status that is known already is told at once."""
        subscription = Subscription(handle, poll_interval_s)
        self._subscriptions.setdefault(handle, set()).add(subscription)
        if handle in self._known:
            self._tell_one(subscription, self._known[handle])
        self._arrival.set()
        self._start()
        try:
            yield subscription
        finally:
            self._forget(subscription)

    def _start(self) -> None:
        if not self._tasks:
            # A thread of its own: slow logs can fill all those of the event loop
            self._asking = ThreadPoolExecutor(1, thread_name_prefix="stepop-status")
            # An empty context: else every line of these loops would land in the first subscriber's task log.
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
        pace = Pace(min(s.poll_interval_s for s in self._all()))
        while True:
            if pace.errors:
                await self._look_up_again()
            if self._arrival.is_set() and pace.may_quicken:
                pace.quicken()
            self._arrival.clear()
            pace.poll_interval_s = min(s.poll_interval_s for s in self._all())
            handles = [h for h in self._subscriptions if not self._is_over(h)]
            is_telling = (
                self.hook.changed_jobs() is not None
            )  # before the question: what comes after it is new
            pause_s = await self._ask(handles, pace) if handles else pace.poll_interval_s
            if is_telling and not pace.errors:
                pause_s = await self._follow(pace)
            await self._pause(pause_s, may_end_early=pace.may_quicken)

    async def _look_up_again(self) -> None:
        """Go on with the connection as it is now: somebody may have replaced what is valid no more."""
        if self._again is None:
            return
        try:
            hook = await self._again()
            is_another = hook.connection != self.hook.connection
        except Exception as error:  # noqa: BLE001, RUF100 - what the service said matters more, and was logged
            log.warning("%s: the connection cannot be looked up (%s)", self.hook.backend, error)
            return
        if is_another:
            log.info("%s: the connection was changed; asking with it", self.hook.backend)
            self.hook = hook

    async def _follow(self, pace: Pace) -> float:
        """Ask for new jobs, and for those of which the service tells that they have changed, until it is time
        to ask for all, or it tells nothing any more; return the pause before that.
        """
        end, pause_s = time.monotonic() + ALL_INTERVAL_S, 0.0
        while not pace.errors and time.monotonic() < end:
            await asyncio.sleep(CHANGES_INTERVAL_S)
            changed = self.hook.changed_jobs()
            if changed is None:
                break
            new = [h for h in self._subscriptions if h not in self._known] if self._arrival.is_set() else []
            self._arrival.clear()
            handles = {h for h in (*new, *changed) if h in self._subscriptions and not self._is_over(h)}
            if handles:
                pause_s = await self._ask(list(handles), pace)
        return pause_s if pace.errors else 0.0

    async def _pause(self, pause_s: float, may_end_early: bool) -> None:
        if not may_end_early:
            await asyncio.sleep(pause_s)
            return
        await _heard(self._arrival, pause_s)

    def _is_over(self, handle: JobHandle) -> bool:
        return handle in self._known and self._known[handle].state.is_terminal

    async def _ask(self, handles: Sequence[JobHandle], pace: Pace) -> float:
        """Ask for the status of ``handles`` and tell the subscribers; return the pause before the next
        question.
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
                    # One handle is damaged, or leads elsewhere: find it, so that the others are answered
                    return max([await self._ask([handle], pace) for handle in handles])
                for subscription in self._of(handles):
                    subscription.tell_error(error)
                return pace.after_error()
            pause_s = pace.after_error()
            count(WATCHER_ERRORS, 1, tags)
            log.warning("%s: no status (%s); asking again in %.0f s", self.hook.backend, error, pause_s)
            return pause_s
        self._tell(statuses)
        return pace.after_success()

    def _tell(self, statuses: Mapping[JobHandle, JobStatus]) -> None:
        for handle, status in statuses.items():
            if handle in self._subscriptions:
                self._known[handle] = status
                for subscription in self._subscriptions[handle]:
                    self._tell_one(subscription, status)

    def _tell_one(self, subscription: Subscription, status: JobStatus) -> None:
        subscription.tell_status(status)
        if status.state is not JobState.PENDING and subscription not in self._begun:
            self._begun[subscription] = None
            self._begun.move_to_end(subscription, last=False)

    async def _watch_logs(self) -> None:
        pace = Pace(LOG_INTERVAL_S)
        while True:
            pause_s = pace.after_success()
            waiting = self._next_to_read()
            for first in range(0, len(waiting), LOG_BATCH):
                try:
                    await self._read_logs(waiting[first : first + LOG_BATCH])
                except Exception as error:  # noqa: BLE001, RUF100 - logs may fail in any way; the job goes on
                    pause_s = pace.after_error()
                    log.warning("%s: no logs (%s); asking again in %.0f s", self.hook.backend, error, pause_s)
            await asyncio.sleep(pause_s)

    def _next_to_read(self) -> list[Subscription]:
        """Return those whose logs are to be read now: where that costs a request each, a few in turn."""
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
                subscription.tell_lines(chunk.lines, chunk.cursor)


@dataclass
class _Watchers:
    """Those of one event loop."""

    known: dict[Hashable, Watcher] = field(default_factory=dict)
    making: dict[Hashable, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


# dag.test() runs every trigger in a loop of its own that is closed afterwards, so watchers belong to their
# loop.
_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watchers] = weakref.WeakKeyDictionary()


async def watcher_for(key: Hashable, make: Make) -> Watcher:
    """Return the running loop's watcher for ``key``; the first caller's hook serves all.

    Subscribe before anything else is awaited: one that nobody subscribes to is forgotten with its last
    subscriber.

    :param make: makes its hook; to look a connection up costs a millisecond, times ten thousand triggers
    """
    watchers = _watchers.setdefault(asyncio.get_running_loop(), _Watchers())
    async with watchers.making[key]:
        if key not in watchers.known:
            hook = await make()
            watchers.known[key] = Watcher(hook, make, on_empty=lambda: watchers.known.pop(key, None))
        return watchers.known[key]
