"""Reads the logs of training jobs from CloudWatch Logs, many jobs with one request. Called by the hook.

A job writes into one stream for each of its attempts: ``<job>/algo-1-<milliseconds>``. A restart (Spot, a
retry of the service) opens a new stream. ``FilterLogEvents`` reads up to a hundred streams at once. It is
limited to a few requests a second for the whole account and region, so a read per job would not do.

Sources: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.sagemaker.service import api_error

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.job import Cursor

GROUP = "/aws/sagemaker/TrainingJobs"
STREAMS = 100  # streams of one FilterLogEvents request
EVENTS = 10_000  # events of one page, the most that the service gives
PAGES = 20  # of one read: the rest follows with the next read
WINDOW_MS, LONGEST_MS = 10_000, 32 * 86_400_000  # the first and the longest window of a read from the end
LATE_S = 60.0  # events of a job may have a time after its end: the clocks differ
STREAMS_KNOWN_S = 30.0  # a job whose streams were listed this long ago is listed again: it may have restarted


@dataclass(frozen=True)
class Event:
    """One event of a log.

    :param time_ms: when the job wrote the line, in milliseconds since the epoch
    :param id: the event's id, unique in the log group
    """

    stream: str
    time_ms: int
    id: str
    text: str


@dataclass
class Position:
    """Which events of one job were read: of each stream, the last time and the events at that time.

    Events of one stream come in the order of their times. Several may have the same time, also in different
    reads.
    """

    streams: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)

    @classmethod
    def at(cls, cursor: Cursor) -> Position:
        if not cursor:
            return cls()
        known = json.loads(cursor)
        return cls({stream: (time_ms, frozenset(ids)) for stream, (time_ms, ids) in known.items()})

    def cursor(self) -> Cursor:
        return json.dumps({stream: [time_ms, sorted(ids)] for stream, (time_ms, ids) in self.streams.items()})

    def is_new(self, event: Event) -> bool:
        time_ms, ids = self.streams.get(event.stream, (0, frozenset()))
        return event.time_ms > time_ms or (event.time_ms == time_ms and event.id not in ids)

    def add(self, event: Event) -> None:
        time_ms, ids = self.streams.get(event.stream, (0, frozenset()))
        same = ids if event.time_ms == time_ms else frozenset()
        self.streams[event.stream] = event.time_ms, same | {event.id}

    def since(self, stream: str) -> int:
        return self.streams.get(stream, (0, frozenset()))[0]


class JobLogs:
    """The logs of the training jobs of one region.

    :param clients: of the connection and the region
    """

    def __init__(self, clients: AwsClients) -> None:
        self.clients = clients
        self._streams: dict[str, tuple[float, list[str]]] = {}  # job -> when they were listed, and its streams

    @property
    def _client(self) -> Any:
        return self.clients.client("logs")

    def read(self, cursors: Mapping[str, Cursor], ended: Iterable[str] = ()) -> dict[str, tuple[list[Event], Cursor]]:
        """Return the new events of each job, oldest first, and the cursor behind them.

        :param cursors: name of a job -> where its last read ended
        :param ended: jobs that have ended. Their streams are listed again, because the last attempt may have
            opened one
        """
        over = set(ended)
        positions = {job: Position.at(cursor) for job, cursor in cursors.items()}
        wanted = [
            (positions[job].since(stream), stream, job)
            for job in cursors
            for stream in self._streams_of(job, is_fresh=job in over)
        ]
        found: dict[str, list[Event]] = {job: [] for job in cursors}
        for group in _groups(sorted(wanted)):
            jobs = {stream: job for _, stream, job in group}
            for event in self._events(list(jobs), min(since for since, _, _ in group)):
                job = jobs[event.stream]
                if positions[job].is_new(event):
                    positions[job].add(event)
                    found[job].append(event)
        return {
            job: (sorted(events, key=lambda event: event.time_ms), positions[job].cursor())
            for job, events in found.items()
            if events
        }

    def last(
        self, job: str, count: int, cursor: Cursor = None, ended_at: float | None = None
    ) -> tuple[list[Event], Cursor]:
        """Return at least the last ``count`` new events of a job, if there are so many, and the cursor behind them.

        Reads the log backwards, in windows of time that grow, because a log may be long.

        :param ended_at: when the job ended, in seconds since the epoch; ``None``: it runs
        """
        position, streams = Position.at(cursor), self._streams_of(job, is_fresh=True)
        if not streams:
            return [], cursor
        end_ms = int((ended_at + LATE_S if ended_at is not None else time.time()) * 1000)
        window_ms, found = WINDOW_MS, []
        while True:
            found = [one for one in self._events(streams, max(end_ms - window_ms, 0)) if position.is_new(one)]
            if len(found) >= count or window_ms >= LONGEST_MS:
                break
            window_ms *= 8
        found.sort(key=lambda event: event.time_ms)
        for event in found:
            position.add(event)
        return found, position.cursor() if found else cursor

    def _events(self, streams: Sequence[str], since_ms: int) -> Iterator[Event]:
        token: dict[str, str] = {}
        for _ in range(PAGES):
            try:
                answer = self._client.filter_log_events(
                    logGroupName=GROUP, logStreamNames=list(streams), startTime=since_ms, limit=EVENTS, **token
                )
            except Exception as error:
                if api_error(error).kind is Trouble.NOT_FOUND:  # no job of this region has printed yet
                    return
                raise
            for one in answer["events"]:
                yield Event(one["logStreamName"], one["timestamp"], one["eventId"], one["message"])
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}

    def _streams_of(self, job: str, *, is_fresh: bool) -> list[str]:
        """Return the names of a job's streams, oldest first. ``data-log`` and the like are left out."""
        listed_at, streams = self._streams.get(job, (0.0, []))
        if streams and not is_fresh and time.monotonic() - listed_at < STREAMS_KNOWN_S:
            return streams
        found = sorted(self._list(f"{job}/algo-1-"), key=_attempt)
        self._streams[job] = time.monotonic(), found
        return found

    def _list(self, prefix: str) -> Iterator[str]:
        token: dict[str, str] = {}
        while True:
            try:
                answer = self._client.describe_log_streams(
                    logGroupName=GROUP, logStreamNamePrefix=prefix, **token
                )
            except Exception as error:
                if api_error(error).kind is Trouble.NOT_FOUND:
                    return
                raise
            for one in answer["logStreams"]:
                yield one["logStreamName"]
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}


def _groups(wanted: Sequence[tuple[int, str, str]]) -> Iterator[Sequence[tuple[int, str, str]]]:
    """Yield groups of streams for one request each. Neighbours were read up to about the same time."""
    for first in range(0, len(wanted), STREAMS):
        yield wanted[first : first + STREAMS]


def _attempt(stream: str) -> tuple[int, str]:
    """Sort key: the time at the end of a stream's name."""
    number = stream.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0), stream
