"""Reads the log of a pod from a cursor on, or its last lines, for ``hook.py`` and ``outcome.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_stepop.hooks.kubernetes.cluster import Cluster, status_of
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import broken_container, has_begun, has_ended
from airflow_stepop.job import LogChunk, LogLine
from airflow_stepop.runner.protocol import FRAME_PREFIX

if TYPE_CHECKING:
    from airflow_stepop.job import Cursor

BYTES = 256 * 1024  # of one read
MOST_BYTES = 64 << 20  # limit of one read if a single second or line is longer
MISSING = "[stepop] Lines are missing here: the node has rotated the log away"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
Timed = tuple[str, str]  # the kubelet's time stamp with nanoseconds; the text


class PodLog:
    """The log of the step's container, or of the init container that kept the step from starting.

    A cursor has three parts: the time stamp of the last line that was read, the number of lines read with
    this time stamp, and the uid of the pod. The number is needed because ``sinceTime`` of the API has whole
    seconds only, so that an answer begins with lines that were read before. The uid is needed because a job
    that Kueue has stopped continues in another pod with a new log.

    :param pod: ``None``: the job has no pod, or no longer has one, and no log
    """

    def __init__(self, cluster: Cluster, pod: Json | None) -> None:
        self.cluster = cluster
        self.pod = pod
        self._uid = pod["metadata"].get("uid", "") if pod is not None else ""

    def since(self, cursor: Cursor) -> LogChunk | None:
        """Return the lines after ``cursor``; ``None`` when there is no log to read."""
        time, count = self._position(cursor)
        limit = BYTES
        while True:
            data = self._read(limitBytes=str(limit), **({"sinceTime": time} if time else {})) or b""
            is_cut = limit <= len(data) < MOST_BYTES
            lines = _timed(data, is_whole=not is_cut and self._is_over)
            new = _after(lines, time, count)
            if new or not is_cut:
                break
            limit *= 2  # only lines that were read before, or a part of one line
        if not lines:
            return None
        is_missing = bool(time) and all(when != time for when, _ in lines)
        return self._chunk(new, cursor, [MISSING] * is_missing)

    def last(self, count: int, cursor: Cursor = None) -> LogChunk:
        """Return the last ``count`` lines after ``cursor``."""
        time, seen = self._position(cursor)
        # The lines with the outcome are the last ones of the log. They are read, too, and not shown
        data = self._read(tailLines=str(count + FRAMES), **({"sinceTime": time} if time else {}))
        lines = _after(_timed(data), time, seen)
        found = self._chunk(lines, cursor)
        return LogChunk(list(found.lines)[-count:], found.cursor)

    def frames(self) -> list[str]:
        """Return the last lines of the log, which may carry the outcome."""
        return [text for _, text in _timed(self._read(tailLines=str(10 * FRAMES)))]

    def _position(self, cursor: Cursor) -> tuple[str, int]:
        time, count, uid = [*json.loads(cursor), self._uid][:3] if cursor else ("", 0, "")
        return (time, count) if uid == self._uid else ("", 0)

    def _chunk(self, lines: Sequence[Timed], cursor: Cursor, before: Sequence[str] = ()) -> LogChunk:
        """Return a chunk with the remarks ``before``, then ``lines``, and the new cursor."""
        if not lines:
            return LogChunk([], cursor)
        time, count = self._position(cursor)
        last = lines[-1][0]
        seen = sum(when == last for when, _ in lines) + (count if last == time else 0)
        first = datetime.fromisoformat(lines[0][0]).timestamp()
        new = json.dumps([last, seen, self._uid])
        return LogChunk([*(LogLine(first, text) for text in before), *_shown(lines)], new)

    @property
    def _is_over(self) -> bool:
        """Whether the log is complete, so that a last line without a line end is complete, too."""
        return self.pod is None or has_ended(self.pod)

    def _read(self, **query: str) -> bytes | None:
        container = broken_container(self.pod) or STEP
        if self.pod is None or (container == STEP and not has_begun(self.pod)):
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
    lines = (data or b"").split(b"\n")
    if not is_whole:
        lines.pop()  # an incomplete last line: a later read returns the whole line
    parted = (line.decode("utf-8", "replace").partition(" ") for line in lines)
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
    """Return the lines that the step printed, without the parts that carry the outcome."""
    found: list[LogLine] = []
    for when, text in lines:
        own, framed, _ = text.partition(FRAME_PREFIX)
        if own or not framed:
            found += LogLine.printed(datetime.fromisoformat(when).timestamp(), own)
    return found
