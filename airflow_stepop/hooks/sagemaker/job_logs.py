"""Reads the logs of training jobs from CloudWatch Logs, many jobs with one request. Called by the hook.

A job writes into one stream for each of its attempts: ``<job>/algo-1-<milliseconds>``. A restart (Spot, a
retry of the service) opens a new stream. ``FilterLogEvents`` reads up to a hundred streams at once. It is
limited to a few requests a second for the whole account and region, so a read per job would not do.

Sources: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.common.log_cursors import LogEvent, TimeCursor
from airflow_stepop.hooks.sagemaker.service import api_error

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.job import Cursor

GROUP = "/aws/sagemaker/TrainingJobs"
STREAMS = 100  # streams of one FilterLogEvents request
EVENTS = 10_000  # events of one page, the most that the service gives
PAGES = 20  # of one read: the rest follows with the next read
WINDOW_MS, LONGEST_MS = 10_000, 32 * 86_400_000  # the first and the longest window of a read from the end
LATE_MS = 10_000  # an event may come so much later than a newer one, or have a time after the job's end
STREAMS_KNOWN_S = 30.0  # a job whose streams were listed this long ago is listed again: it may have restarted


class JobLogs:
    """The logs of the training jobs of one region.

    :param clients: of the connection and the region
    """

    def __init__(self, clients: AwsClients) -> None:
        self.clients = clients
        self._streams: dict[
            str, tuple[float, list[str]]
        ] = {}  # job -> when they were listed, and its streams

    @property
    def _client(self) -> Any:
        return self.clients.client("logs")

    def read(
        self, cursors: Mapping[str, Cursor], ended: Iterable[str] = ()
    ) -> dict[str, tuple[list[LogEvent], Cursor]]:
        """Return the new events of each job, oldest first, and the cursor behind them.

        :param cursors: name of a job -> where its last read ended
        :param ended: jobs that have ended. Their streams are listed again, because the last attempt may have
            opened one
        """
        over = set(ended)
        positions = {job: TimeCursor.parse(cursor) for job, cursor in cursors.items()}
        wanted = [
            (positions[job].time_ms, stream, job)
            for job in cursors
            for stream in self._streams_of(job, is_fresh=job in over)
        ]
        found: dict[str, list[LogEvent]] = {job: [] for job in cursors}
        for group in _groups(sorted(wanted)):
            jobs = {stream: job for _, stream, job in group}
            for stream, event in self._events(list(jobs), group[0][0]):
                found[jobs[stream]].append(event)
        read: dict[str, tuple[list[LogEvent], Cursor]] = {}
        for job, events in found.items():
            new, position = positions[job].after(events, LATE_MS)
            if new:
                read[job] = new, str(position)
        return read

    def last(
        self, job: str, count: int, cursor: Cursor = None, ended_at: float | None = None
    ) -> tuple[list[LogEvent], Cursor]:
        """Return at least the last ``count`` new events of a job, if it has so many, and the cursor behind.

        Reads the log backwards, in windows of time that grow, because a log may be long.

        :param ended_at: when the job ended, in seconds since the epoch; ``None``: it runs
        """
        position, streams = TimeCursor.parse(cursor), self._streams_of(job, is_fresh=True)
        if not streams:
            return [], cursor
        end_ms = int((ended_at if ended_at is not None else time.time()) * 1000) + LATE_MS
        window_ms = WINDOW_MS
        while True:
            events = [event for _, event in self._events(streams, max(end_ms - window_ms, 0))]
            new, after = position.after(events, LATE_MS)
            if len(new) >= count or window_ms >= LONGEST_MS:
                return new, str(after) if new else cursor
            window_ms *= 8

    def _events(self, streams: Sequence[str], since_ms: int) -> Iterator[tuple[str, LogEvent]]:
        token: dict[str, str] = {}
        for _ in range(PAGES):
            try:
                answer = self._client.filter_log_events(
                    logGroupName=GROUP,
                    logStreamNames=list(streams),
                    startTime=since_ms,
                    limit=EVENTS,
                    **token,
                )
            except Exception as error:
                if api_error(error).kind is Trouble.NOT_FOUND:  # no job of this region has printed yet
                    return
                raise
            for one in answer["events"]:
                yield one["logStreamName"], LogEvent(one["timestamp"], one["eventId"], one["message"])
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
