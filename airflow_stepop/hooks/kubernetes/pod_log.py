"""Reads the log of a pod from a cursor on, or its last lines, for ``hook.py`` and ``outcome.py``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.hooks.common.log_cursors import split_lines, visible
from airflow_stepop.hooks.kubernetes.cluster import Cluster, status_of
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import has_ended, logged_containers
from airflow_stepop.job import LogChunk, LogLine

if TYPE_CHECKING:
    from airflow_stepop.job import Cursor

log = logging.getLogger(__name__)

BYTES = 256 * 1024  # of one read
MOST_BYTES = 64 << 20  # limit of one read if a single second or line is longer
MISSING = "[stepop] Lines are missing here: the node has rotated the log away"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
Timed = tuple[str, str]  # the kubelet's time stamp with nanoseconds; the text


class PodLog:
    """The log of the init containers, one after the other, and then of the step's container.

    If a sidecar keeps the step from starting, its log follows instead of the step's.

    A cursor has four parts: the time stamp of the last line that was read, the number of lines read with this
    time stamp, the uid of the pod, and the container. The number is needed because ``sinceTime`` of the API
    has whole seconds only, so that an answer begins with lines that were read before. The uid is needed
    because a job that Kueue has stopped continues in another pod with a new log.

    :param pod: ``None``: the job has no pod, or no longer has one, and no log
    """

    def __init__(self, cluster: Cluster, pod: Json | None) -> None:
        self.cluster = cluster
        self.pod = pod
        self._uid = pod["metadata"].get("uid", "") if pod is not None else ""
        self._containers = logged_containers(pod) if pod is not None else []

    def since(self, cursor: Cursor) -> LogChunk | None:
        """Return the lines after ``cursor``; ``None`` when there is no log to read."""
        at, time, count = self._position(cursor)
        found = None
        for container in self._containers[at:]:
            found = self._since(container, time, count, cursor)
            if found is not None and found.lines:
                break
            time, count = "", 0  # the next container began after this one had ended
        return found

    def _since(self, container: str, time: str, count: int, cursor: Cursor) -> LogChunk | None:
        limit = BYTES
        is_over = container != self._containers[-1] or has_ended(self.pod or {})
        while True:
            since = {"sinceTime": time} if time else {}
            data = self._read(container, limitBytes=str(limit), **since) or b""
            is_cut = limit <= len(data) < MOST_BYTES
            # a last line without a line end is complete if the log is
            lines = _timed(data, is_whole=not is_cut and is_over)
            new = _after(lines, time, count)
            if new or not is_cut:
                break
            limit *= 2  # only lines that were read before, or a part of one line
        if not lines:
            return None
        is_missing = bool(time) and all(when != time for when, _ in lines)
        if not new:
            return LogChunk([], cursor)
        first = datetime.fromisoformat(new[0][0]).timestamp()
        remarks = [LogLine(first, MISSING)] * is_missing
        return LogChunk([*remarks, *_shown(new)], self._cursor(new, container, time, count))

    def last(self, count: int, cursor: Cursor = None) -> LogChunk:
        """Return the last ``count`` lines of the last container after ``cursor``."""
        if not self._containers:
            return LogChunk([], cursor)
        container = self._containers[-1]
        at, time, seen = self._position(cursor)
        if at < len(self._containers) - 1:
            time, seen = "", 0
        # The lines with the outcome are the last ones of the log. They are read, too, and not shown
        since = {"sinceTime": time} if time else {}
        data = self._read(container, tailLines=str(count + FRAMES), **since)
        lines = _after(_timed(data), time, seen)
        if not lines:
            return LogChunk([], cursor)
        return LogChunk(_shown(lines)[-count:], self._cursor(lines, container, time, seen))

    def last_texts(self, count: int) -> list[str]:
        """Return the last ``count`` lines; none if the log cannot be read."""
        try:
            return [line.text for line in self.last(count).lines]
        except Exception as error:  # noqa: BLE001, RUF100 - a failure is reported without the last lines
            log.info("The log of a failed pod cannot be read: %s", error)
            return []

    def frames(self) -> list[str]:
        """Return the last lines of the step's log, which may carry the outcome."""
        if STEP not in self._containers:
            return []
        return [text for _, text in _timed(self._read(STEP, tailLines=str(10 * FRAMES)))]

    def _position(self, cursor: Cursor) -> tuple[int, str, int]:
        """Return the index of the cursor's container, the last time stamp, and the number of its lines."""
        if not cursor:
            return 0, "", 0
        time, count, uid, container = [*json.loads(cursor), self._uid, STEP][:4]
        if uid != self._uid:
            return 0, "", 0
        if container not in self._containers:  # a cursor of an older version, in an init container's log
            return max(len(self._containers) - 1, 0), time, count
        return self._containers.index(container), time, count

    def _cursor(self, lines: Sequence[Timed], container: str, time: str, count: int) -> str:
        """Return the cursor behind ``lines``, which follow ``count`` lines with the stamp ``time``."""
        last = lines[-1][0]
        seen = sum(when == last for when, _ in lines) + (count if last == time else 0)
        return json.dumps([last, seen, self._uid, container])

    def _read(self, container: str, **query: str) -> bytes | None:
        if self.pod is None:
            return None
        path = f"{self.cluster.path('pods', self.pod['metadata']['name'])}/log"
        try:
            found: bytes = self.cluster.open(
                "GET", path, query={"container": container, "timestamps": "true", **query}
            ).data
        except Exception as error:
            if status_of(error) in (400, 404):  # not started yet, or gone
                return None
            raise
        return found


FRAMES = 64  # limit of log lines that carry an outcome


def _timed(data: bytes | None, is_whole: bool = True) -> list[Timed]:
    parted = (line.partition(" ") for line in split_lines(data or b"", is_whole=is_whole))
    # A line without a time stamp is a message of the kubelet, such as: the container is gone
    return [(_utc(when), text) for when, space, text in parted if space and _TIME.match(when)]


def _utc(when: str) -> str:
    """Return a node's time stamp in UTC, so that stamps sort by time also when summer time ends."""
    if when.endswith("Z"):
        return when
    nanoseconds = when[19:29]  # a datetime has microseconds only
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y-%m-%dT%H:%M:%S}{nanoseconds}Z"


def _after(lines: Sequence[Timed], time: str, count: int) -> list[Timed]:
    """Return the lines after the first ``count`` lines with the time stamp ``time``."""
    newer = [line for line in lines if line[0] >= time]
    known = sum(when == time for when, _ in newer)
    return newer[min(count, known) :]


def _shown(lines: Sequence[Timed]) -> list[LogLine]:
    return visible((datetime.fromisoformat(when).timestamp(), text) for when, text in lines)
