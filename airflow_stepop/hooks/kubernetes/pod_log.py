"""Reads the log of a pod from a cursor on, or its last lines, for ``hook.py`` and ``outcome.py``."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.hooks.common.log_cursors import split_lines, visible
from airflow_stepop.hooks.kubernetes.cluster import Cluster, status_of
from airflow_stepop.hooks.kubernetes.log_lines import CHUNK_BYTES, FirstParts, ends
from airflow_stepop.hooks.kubernetes.objects import STEP, Json
from airflow_stepop.hooks.kubernetes.pods import has_ended, logged_containers
from airflow_stepop.job import LogChunk, LogLine

if TYPE_CHECKING:
    from airflow_stepop.job import Cursor

log = logging.getLogger(__name__)

BYTES = 256 * 1024  # of one read
MISSING = "[stepop] Lines are missing here: the node has rotated the log away"
FIRST_YEAR = 1971  # of a stamp: no container is older
CLOCKS_S = 5  # how much the clock of a node may be behind that of the API server

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
Timed = tuple[str, str]  # the kubelet's time stamp with nanoseconds; the text


class Position(NamedTuple):
    """A position in the log of a container.

    ``sinceTime`` of the API has whole seconds only. So an answer begins with lines that were read before.

    :param time: time stamp of the last line that was read; empty at the begin of the log
    :param number: number of lines read with this time stamp
    :param since: everything before this time was read, although it is later than ``time``. It is set after an
        answer that was longer than a read, so that the same bytes are not fetched at each look
    """

    time: str = ""
    number: int = 0
    since: str = ""

    @property
    def query(self) -> dict[str, str]:
        return {"sinceTime": self.since or self.time} if self.time else {}

    @property
    def is_in_answer(self) -> bool:
        """Whether an answer begins with the last line that was read, if the node still has it."""
        return bool(self.time) and not self.since

    def read_until(self, moment: str) -> Position:
        """Return the position of a reader who has read everything before ``moment``."""
        return self._replace(since=moment) if self.time and moment > max(self.time, self.since) else self

    def behind(self, lines: Sequence[Timed]) -> Position:
        """Return the position behind ``lines``, which were read from this position on."""
        if not lines:
            return self
        last = lines[-1][0]
        seen = sum(when == last for when, _ in lines) + (self.number if last == self.time else 0)
        return Position(last, seen, self.since if self.since > last else "")


class PodLog:
    """The log of the init containers, one after the other, and then of the step's container.

    If a sidecar keeps the step from starting, its log follows instead of the step's.

    A cursor is a :class:`Position`, the uid of the pod, and the container. The uid is needed because a job
    that Kueue has stopped continues in another pod with a new log.

    :param pod: ``None``: the job has no pod, or no longer has one, and no log
    """

    def __init__(self, cluster: Cluster, pod: Json | None) -> None:
        self.cluster = cluster
        self.pod = pod
        self._uid = pod["metadata"].get("uid", "") if pod is not None else ""
        self._containers = logged_containers(pod) if pod is not None else []

    def since(self, cursor: Cursor) -> LogChunk | None:
        """Return the lines after ``cursor``; ``None`` when there is no log to read."""
        at, position = self._position(cursor)
        found = None
        for container in self._containers[at:]:
            found = self._since(container, position, cursor)
            if found is not None and found.lines:
                break
            position = Position()  # the next container began after this one had ended
        return found

    def _since(self, container: str, position: Position, cursor: Cursor) -> LogChunk | None:
        is_over = container != self._containers[-1] or has_ended(self.pod or {})
        data = self._read(container, limitBytes=str(BYTES), **position.query) or b""
        is_cut = len(data) >= BYTES
        # a last line without a line end is complete if the log is
        lines = [*_timed(split_lines(data, is_whole=not is_cut and is_over))]
        new, moment = _after(lines, position), ""
        if is_cut and not new:  # only lines that were read before, or a part of one line
            lines, new, moment = self._stream(container, position, is_over)
        then = position.behind(new).read_until(moment)
        if not new:
            is_empty = not lines and then == position
            return None if is_empty else LogChunk([], self._cursor(then, container, cursor))
        is_missing = position.is_in_answer and all(when != position.time for when, _ in lines)
        first = datetime.fromisoformat(new[0][0]).timestamp()
        remarks = [LogLine(first, MISSING)] * is_missing
        return LogChunk([*remarks, *_shown(new)], self._cursor(then, container))

    def _stream(
        self, container: str, position: Position, is_over: bool
    ) -> tuple[list[Timed], list[Timed], str]:
        """Read on until there are enough new lines, or the log ends. What was read before takes no memory.

        :return: the last line that was read before, with the new lines; the new lines; and the time up to
            which every line was read, if the log was read to its end
        """
        old: list[Timed] = []
        new: list[Timed] = []
        answer = self._open(container, **position.query)
        if answer is None:
            return old, new, ""
        parts, known, size = FirstParts(answer.stream(CHUNK_BYTES), is_over=is_over), 0, 0
        try:
            for when, text in _timed(_decoded(parts)):
                if when < position.time or (when == position.time and known < position.number):
                    old, known = [(when, text)], known + (when == position.time)
                    continue
                new.append((when, text))
                size += len(when) + len(text)
                if size >= BYTES:
                    return old + new, new, ""
        finally:
            answer.close()
        return old + new, new, "" if parts.has_unfinished else _moment(answer)

    def last(self, count: int, cursor: Cursor = None) -> LogChunk:
        """Return the last ``count`` lines of the last container after ``cursor``."""
        if not self._containers:
            return LogChunk([], cursor)
        container = self._containers[-1]
        at, position = self._position(cursor)
        if at < len(self._containers) - 1:
            position = Position()
        # The lines with the outcome are the last ones of the log. They are read, too, and not shown
        lines = _after(self._ends(container, count + FRAMES, **position.query), position)
        if not lines:
            return LogChunk([], cursor)
        return LogChunk(_shown(lines)[-count:], self._cursor(position.behind(lines), container))

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
        return [text for _, text in self._ends(STEP, 10 * FRAMES)]

    def _position(self, cursor: Cursor) -> tuple[int, Position]:
        """Return the index of the cursor's container, and the position in its log."""
        if not cursor:
            return 0, Position()
        written = json.loads(cursor)
        time, count, uid, container = [*written, self._uid, STEP][:4]
        if uid != self._uid:
            return 0, Position()
        position = Position(time, count, *written[4:5])
        if container not in self._containers:  # a cursor of an older version, in an init container's log
            return max(len(self._containers) - 1, 0), position
        return self._containers.index(container), position

    def _cursor(self, at: Position, container: str, same: Cursor = None) -> Cursor:
        """Return the cursor for a position; at the begin of the log, ``same``."""
        if not at.time:
            return same
        return json.dumps([at.time, at.number, self._uid, container, *filter(None, [at.since])])

    def _read(self, container: str, **query: str) -> bytes | None:
        answer = self._open(container, **query)
        return None if answer is None else answer.data

    def _ends(self, container: str, count: int, **query: str) -> list[Timed]:
        """Return the last ``count`` lines."""
        answer = self._open(container, tailLines=str(count), **query)
        if answer is None:
            return []
        return [*_timed(deque(_decoded(ends(answer.stream(CHUNK_BYTES))), maxlen=count))]

    def _open(self, container: str, **query: str) -> Any:
        """Return the unread answer of the API server; ``None`` if there is no log to read."""
        if self.pod is None:
            return None
        path = f"{self.cluster.path('pods', self.pod['metadata']['name'])}/log"
        try:
            return self.cluster.open(
                "GET", path, query={"container": container, "timestamps": "true", **query}
            )
        except Exception as error:
            if status_of(error) in (400, 404):  # not started yet, or gone
                return None
            raise


FRAMES = 64  # limit of log lines that carry an outcome


def _timed(lines: Iterable[str]) -> Iterator[Timed]:
    parted = (line.partition(" ") for line in lines)
    # A line without a time stamp is a message of the kubelet, such as: the container is gone. Or it is the
    # rest of a line that began before the time that was asked for, which may look like any stamp
    return ((_utc(when), text) for when, space, text in parted if space and _is_time(when))


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        return datetime.fromisoformat(text).astimezone(UTC).year >= FIRST_YEAR
    except (ValueError, OverflowError):
        return False


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", "replace") for line in lines)


def _moment(answer: Any) -> str:
    """Return the time up to which a whole answer has every line; empty if the API server does not say it.

    https://www.rfc-editor.org/rfc/rfc9110#name-date
    """
    sent = answer.headers.get("Date")
    if not sent:
        return ""
    at = parsedate_to_datetime(sent).astimezone(UTC) - timedelta(seconds=CLOCKS_S)
    return f"{at:%Y-%m-%dT%H:%M:%S}.000000000Z"


def _utc(when: str) -> str:
    """Return a node's time stamp in UTC, so that stamps sort by time also when summer time ends."""
    if when.endswith("Z"):
        return when
    nanoseconds = when[19:29]  # a datetime has microseconds only
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y-%m-%dT%H:%M:%S}{nanoseconds}Z"


def _after(lines: Sequence[Timed], position: Position) -> list[Timed]:
    """Return the lines after ``position``."""
    newer = [line for line in lines if line[0] >= position.time]
    known = sum(when == position.time for when, _ in newer)
    return newer[min(position.number, known) :]


def _shown(lines: Sequence[Timed]) -> list[LogLine]:
    return visible((datetime.fromisoformat(when).timestamp(), text) for when, text in lines)
