"""Reads the logs of training jobs from CloudWatch Logs, many jobs with one request. Called by the hook.

A job writes into one stream for each of its attempts: ``<job>/algo-1-<milliseconds>``. A restart (Spot, a
retry of the service) opens a new stream. ``FilterLogEvents`` reads up to a hundred streams at once. It is
limited to a few requests a second for the whole account and region, so a read per job would not do. All
processes of a host share the limits here, which leave some requests to others.

Sources: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.common.log_cursors import LogEvent, TimeCursor
from airflow_stepop.hooks.common.rate_limit import RateLimit
from airflow_stepop.hooks.sagemaker.service import api_error

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.job import Cursor

GROUP = "/aws/sagemaker/TrainingJobs"
FILTERS_PER_S, LISTS_PER_S = 4.0, 20.0  # the service's limits are 5 FilterLogEvents and 25 DescribeLogStreams
STREAMS = 100  # streams of one FilterLogEvents request
EVENTS = 10_000  # events of one page, the most that the service gives
PAGES = 5  # with new events, of one read: the rest follows with the next read
OLD_PAGES = 100  # without new events, one after the other: the service may send empty pages
WINDOW_MS = 10_000  # the first window of a read from the end
GROWTH = 64  # ... of the next one, if the first has too few lines: most likely they fit into one page
LEAST_MS = 1_000  # how exactly a read from the end looks for its begin
LATE_MS = 10_000  # an event may come so much later than a newer one, or have a time after the job's end
EARLY_MS = 600_000  # an event may have a time so long before that of its stream: the clocks differ
# Streams are read together if they were read up to about the same time: 2 minutes, 16 minutes, 2 hours or
# 17 hours at most before the one that was read last
AGES_MS = (120_000, 960_000, 7_680_000, 61_440_000)
# A job is listed again after this time. A new attempt is noticed sooner by its state: see ``changed``
STREAMS_KNOWN_S, NO_STREAM_S, WAITING_S = 600.0, 1.0, 10.0
# ... and so many jobs a second at most, after a pause so many at once. The others keep what is known of them
REPEATS_PER_S, MOST_REPEATS = 5.0, 20
NEVER_S = -1e9
KEPT_JOBS = 20_000  # whose streams are remembered


class Stream(NamedTuple):
    """One log stream.

    :param begin_ms: its first event is not older, in milliseconds since the epoch
    """

    name: str
    begin_ms: int


class _Wanted(NamedTuple):
    """A stream to read, and the time from which on."""

    since_ms: int
    stream: str
    job: str


def limits(region: str) -> tuple[RateLimit, RateLimit]:
    """Return the limits of FilterLogEvents and of DescribeLogStreams, which all processes of a host share."""
    return (
        RateLimit(f"sagemaker-filter-{region}", FILTERS_PER_S, burst=4),
        RateLimit(f"sagemaker-streams-{region}", LISTS_PER_S, burst=20),
    )


class JobLogs:
    """The logs of the training jobs of one region.

    :param clients: of the connection and the region
    """

    def __init__(self, clients: AwsClients) -> None:
        self.clients = clients
        self._known: dict[str, tuple[float, list[Stream]]] = {}  # job -> when it was listed, and its streams
        self._repeats, self._repeats_s = float(MOST_REPEATS), time.monotonic()  # allowed now, since when
        self._filters, self._lists = limits(clients.region)

    @property
    def _client(self) -> Any:
        return self.clients.client("logs")

    def changed(self, job: str) -> None:
        """Note that the service has changed a job: it may have a new stream."""
        if job in self._known:
            self._known[job] = NEVER_S, self._known[job][1]

    def read(
        self, cursors: Mapping[str, Cursor], waiting: Collection[str] = ()
    ) -> dict[str, tuple[list[LogEvent], Cursor]]:
        """Return the new events of each job, oldest first, and the cursor behind them.

        :param cursors: name of a job -> where its last read ended
        :param waiting: jobs whose container does not run
        """
        positions = {job: TimeCursor.parse(cursor) for job, cursor in cursors.items()}
        self._list_some(cursors, waiting)
        wanted = [
            _Wanted(max(positions[job].time_ms, stream.begin_ms), stream.name, job)
            for job in cursors
            for stream in self._known.get(job, (NEVER_S, []))[1]
        ]
        found: dict[str, list[LogEvent]] = {job: [] for job in cursors}
        for group in _groups(wanted):
            for job, event in self._of_group(group, positions):
                found[job].append(event)
        read: dict[str, tuple[list[LogEvent], Cursor]] = {}
        for job, events in found.items():
            new, position = positions[job].after(events, LATE_MS)
            if new:
                read[job] = new, str(position)
        return read

    def _of_group(
        self, group: Sequence[_Wanted], positions: Mapping[str, TimeCursor]
    ) -> Iterator[tuple[str, LogEvent]]:
        """Yield (job, event) of streams that one request reads.

        The events since the earliest time may fill all pages, also with those that were read before. Then the
        later streams are read by themselves, and each read makes progress.
        """
        jobs = {one.stream: one.job for one in group}
        events, is_cut = self._events(
            list(jobs), group[0].since_ms, PAGES, lambda stream, event: positions[jobs[stream]].is_new(event)
        )
        for stream, event in events:
            yield jobs[stream], event
        if is_cut and group[0].since_ms < group[-1].since_ms:
            middle = len(group) // 2
            for half in (group[:middle], group[middle:]):
                yield from self._of_group(half, positions)

    def last(
        self, job: str, count: int, cursor: Cursor = None, ended_at: float | None = None
    ) -> tuple[list[LogEvent], Cursor]:
        """Return at least the last ``count`` new events of a job, if it has so many, and the cursor behind.

        Reads a window of time at the end of the log, because a log may be long. A window with too few events
        grows, and one with too many shrinks.

        :param ended_at: when the job ended, in seconds since the epoch; ``None``: it runs
        """
        position, streams = TimeCursor.parse(cursor), self._list_streams(job)
        if not streams:
            return [], cursor
        names, first_ms = [one.name for one in streams], max(position.time_ms, streams[0].begin_ms)
        end_ms = int((ended_at if ended_at is not None else time.time()) * 1000) + LATE_MS
        window_ms, short_ms, cut_ms, pages = WINDOW_MS, 0, end_ms, PAGES
        while True:
            since_ms = max(end_ms - window_ms, first_ms)
            events, is_cut = self._events(names, since_ms, pages)
            if is_cut and pages == PAGES:
                cut_ms, last_ms = window_ms, events[-1][1].time_ms if events else since_ms
                window_ms = max(short_ms, min((window_ms + short_ms) // 2, end_ms - last_ms))
                if cut_ms - window_ms <= LEAST_MS:  # very many lines at about the same time: all are read
                    window_ms, pages = cut_ms, 10**9
                continue
            new, after = position.after((event for _, event in events), LATE_MS)
            if len(new) >= count or since_ms <= first_ms or pages > PAGES:
                return new, str(after.since(since_ms)) if new else cursor
            short_ms, window_ms = window_ms, min(window_ms * GROWTH, (window_ms + cut_ms + 1) // 2)

    def _events(
        self,
        streams: Sequence[str],
        since_ms: int,
        pages: int,
        is_new: Callable[[str, LogEvent], bool] = lambda stream, event: True,
    ) -> tuple[list[tuple[str, LogEvent]], bool]:
        """Return (stream, event) since a time, and whether there are more pages.

        :param pages: so many pages with new events at most. A page without one does not count, or a reader
            that goes back to an earlier time would never come past the pages that it knows
        """
        found: list[tuple[str, LogEvent]] = []
        token: dict[str, str] = {}
        old_pages = 0
        while pages and old_pages < OLD_PAGES:
            answer = self._page(streams, since_ms, token)
            page = [
                (one["logStreamName"], LogEvent(one["timestamp"], one["eventId"], one["message"]))
                for one in answer["events"]
            ]
            found += page
            if not answer.get("nextToken"):
                return found, False
            token = {"nextToken": answer["nextToken"]}
            if any(is_new(stream, event) for stream, event in page):
                pages, old_pages = pages - 1, 0
            else:
                old_pages += 1
        return found, True

    def _page(self, streams: Sequence[str], since_ms: int, token: Mapping[str, str]) -> Mapping[str, Any]:
        """Return one answer of FilterLogEvents; an empty one if somebody has deleted one of the streams."""
        self._filters.wait()
        try:
            answer: Mapping[str, Any] = self._client.filter_log_events(
                logGroupName=GROUP, logStreamNames=list(streams), startTime=since_ms, limit=EVENTS, **token
            )
        except Exception as error:
            if api_error(error).kind is not Trouble.NOT_FOUND:
                raise
            for stream in streams:  # they are listed again
                self.changed(stream.partition("/")[0])
            return {"events": []}
        return answer

    def _list_some(self, jobs: Iterable[str], waiting: Collection[str]) -> None:
        """List the streams of the jobs that are new or changed, and of some that were listed long ago."""
        now, overdue = time.monotonic(), []
        for job in jobs:
            listed_s, streams = self._known.get(job, (NEVER_S, []))
            if listed_s == NEVER_S:
                self._list_streams(job)
                continue
            known_s = STREAMS_KNOWN_S if streams else WAITING_S if job in waiting else NO_STREAM_S
            if now - listed_s >= known_s:
                overdue.append((now - listed_s - known_s, job))
        self._repeats = min(MOST_REPEATS, self._repeats + (now - self._repeats_s) * REPEATS_PER_S)
        self._repeats_s = now
        for _, job in nlargest(int(self._repeats), overdue):
            self._repeats -= 1
            self._list_streams(job)

    def _list_streams(self, job: str) -> list[Stream]:
        """Return a job's streams, oldest first. ``data-log`` and the like are left out."""
        now = time.monotonic()
        found = sorted(self._list(f"{job}/algo-1-"), key=_attempt)
        self._known.pop(job, None)
        while len(self._known) >= KEPT_JOBS:  # the job that was listed longest ago
            del self._known[next(iter(self._known))]
        self._known[job] = now, found
        return found

    def _list(self, prefix: str) -> Iterator[Stream]:
        token: dict[str, str] = {}
        while True:
            self._lists.wait()
            try:
                answer = self._client.describe_log_streams(
                    logGroupName=GROUP, logStreamNamePrefix=prefix, **token
                )
            except Exception as error:
                if api_error(error).kind is Trouble.NOT_FOUND:  # no job of this region has printed yet
                    return
                raise
            for one in answer["logStreams"]:
                if "/" in one["logStreamName"].removeprefix(prefix):
                    continue
                yield Stream(one["logStreamName"], max(0, int(one.get("creationTime", 0)) - EARLY_MS))
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}


def _groups(wanted: Sequence[_Wanted]) -> Iterator[Sequence[_Wanted]]:
    """Yield the streams of each request.

    A request returns what all its streams have since the earliest time. So streams of jobs that have been
    silent for long have requests of their own.
    """
    newest_ms = max((one.since_ms for one in wanted), default=0)
    by_age: dict[int, list[_Wanted]] = {}
    for one in sorted(wanted):
        by_age.setdefault(bisect(AGES_MS, newest_ms - one.since_ms), []).append(one)
    for some in by_age.values():
        for first in range(0, len(some), STREAMS):
            yield some[first : first + STREAMS]


def _attempt(stream: Stream) -> tuple[int, str]:
    """Sort key: the time at the end of a stream's name."""
    number = stream.name.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0), stream.name
