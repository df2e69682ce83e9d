"""Reads the logs of sandboxes from the log of their App: one question for all of them. Called by the hook.

A piece of a log comes some time after it was written, and not in the order in which it was written. So the
newest pieces are left for the next read while a sandbox runs. The App's log stays when a sandbox has ended;
for how long depends on the workspace's plan.

Source: ``modal/_logs.py`` of the package ``modal`` 1.6.4, and https://modal.com/docs/guide/logs
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from airflow_stepop.hooks.common.api_errors import Trouble, or_none
from airflow_stepop.hooks.common.log_cursors import visible
from airflow_stepop.hooks.common.receipts import is_of_runner, receipt_text
from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.app_log import READ_S, AppLog, newest_of
from airflow_stepop.hooks.modal.calls import api_error, bounded
from airflow_stepop.hooks.modal.log_text import LATE_MS, Line, Position
from airflow_stepop.hooks.modal.private import LogEntry
from airflow_stepop.hooks.modal.service import is_container
from airflow_stepop.job import LogChunk

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.service import Service
    from airflow_stepop.job import Cursor

FRESH_S = 2.0  # what was written since then is left for the next read, while the sandbox runs
# How much earlier than its submit a sandbox may seem to print, since clocks differ. More costs little where
# few are read, or where the service selects the pieces of one
FEW, EARLY_S, EARLY_OF_FEW_S, EARLY_OF_ONE_S = 3, 60.0, 900.0, 3600.0
OLDEST_S = 30 * 86400.0  # the service answers no question about a longer time than 35 days
KEPT_JOBS = 20_000
STREAMS = {"stdout": 1, "stderr": 2, "system": 3}
TOO_MANY = "LogsFetchError"  # of modal.exception: the App has more new pieces than the client fetches
MORE = 8  # a tail asks for so many more pieces than lines
GROWTH, MOST = 8, 20_000  # ... and for more, if they are too few; the service gives no more at once


class _Read(NamedTuple):
    """The last read of one log: the cursor that the caller has, the position, and the time until which.

    The time is that of this host; ``newest`` is when the newest piece was written, by the service's clock.
    """

    cursor: Cursor
    position: Position
    until: float
    newest: float


class Source(Protocol):
    """What a log is read by: the time of the submit, in seconds since the epoch, and the job's nonce."""

    @property
    def begin(self) -> float: ...
    @property
    def nonce(self) -> str: ...


class JobLogs:
    """The logs of the sandboxes of one App."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._app_log = AppLog(service)
        # id -> the last read. It may be further than the cursor, which only a chunk with lines gives back
        self._read: dict[str, _Read] = {}

    def read(
        self, cursors: Mapping[str, Cursor], jobs: Mapping[str, Source], over: Collection[str]
    ) -> dict[str, LogChunk]:
        """Return the new lines of each sandbox that has some.

        :param cursors: id of a sandbox -> where its last read ended
        :param jobs: id -> the job of the sandbox
        :param over: the sandboxes that have ended
        """
        app_id = self._service.app_id
        if app_id is None or not cursors:
            return {}
        asked_at = time.time()
        early_s = EARLY_OF_FEW_S if len(cursors) <= FEW else EARLY_S
        begins = {one: self._begin(one, jobs[one]) - early_s for one in cursors}
        since = {one: self._since(one, cursor, begins[one]) for one, cursor in cursors.items()}
        entries, until, newest = self._entries(app_id, since, is_fresh=set(cursors) <= set(over))
        found: dict[str, LogChunk] = {}
        for one, cursor in cursors.items():
            is_over = one in over and until >= asked_at  # an earlier read may lack the last lines
            end = until if is_over else until - FRESH_S
            known = self._read.get(one)
            if not is_over and known is not None and known.cursor == cursor and known.until >= end:
                continue  # this read was looked at before
            own = [entry for entry in entries.get(one, ()) if is_over or entry.time_ns <= end * 1e9]
            lines, position = self._position(one, cursor).after(own, is_whole=is_over)
            receipt = _receipt(lines, jobs[one].nonce)
            position = replace(position, has_receipt=position.has_receipt or receipt is not None)
            chunk = _chunk(lines, str(position), receipt)
            if chunk is not None:
                found[one] = chunk
            left_at = chunk.cursor if chunk is not None else cursor
            newest_of_one = max(newest, known.newest if known is not None else 0.0)
            self._note(one, _Read(left_at, position, until - FRESH_S, newest_of_one))
        return found

    def _begin(self, one: str, job: Source) -> float:
        """Return when a sandbox was submitted, or created by the service's own clock if that is earlier."""
        return min(job.begin, self._service.created.get(one, job.begin))

    def _position(self, one: str, cursor: Cursor) -> Position:
        known = self._read.get(one)
        return known.position if known is not None and known.cursor == cursor else Position.parse(cursor)

    def _since(self, one: str, cursor: Cursor, begin: float) -> float:
        """Return the time from which on a log has something new, in seconds since the epoch."""
        known = self._read.get(one)
        since = self._position(one, cursor).cursor.time_ms / 1000 or begin
        if known is not None and known.cursor == cursor:
            since = max(since, min(known.until, known.newest) - LATE_MS / 1000)
        return max(since, time.time() - OLDEST_S)

    def _note(self, one: str, read: _Read) -> None:
        self._read.pop(one, None)
        while len(self._read) >= KEPT_JOBS:
            del self._read[next(iter(self._read))]
        self._read[one] = read

    def _entries(
        self, app_id: str, since: Mapping[str, float], *, is_fresh: bool
    ) -> tuple[Mapping[str, list[LogEntry]], float, float]:
        """Return the pieces of each sandbox since its own time, until when they were read, and the newest.

        :param is_fresh: see :meth:`.AppLog.read`
        """
        if not private.is_open(private.LOGS):
            until = time.time()
            found = {one: self._of_one(one, begin, until) for one, begin in since.items()}
            return found, until, newest_of(chain(*found.values()))
        try:
            read = self._app_log.read(app_id, since.keys(), min(since.values()), is_fresh=is_fresh)
        except Exception as error:
            if type(error).__name__ != TOO_MANY:
                raise
            until = time.time()
            found = {one: self._last(app_id, one, MOST, begin) for one, begin in since.items()}
            return found, until, newest_of(chain(*found.values()))
        found = {
            one: [entry for entry in self._app_log.pieces(read, one) if entry.time_ns >= begin * 1e9]
            for one, begin in since.items()
        }
        return found, read.until, read.newest

    def _of_one(self, one: str, since: float, until: float) -> list[LogEntry]:
        """Return the pieces of one sandbox, by the public interface."""
        from datetime import UTC, datetime

        from modal import Sandbox

        client = self._service.client

        def read() -> list[LogEntry]:
            is_sandbox = not is_container(one)
            whose = Sandbox.from_id(one, client=client) if is_sandbox else self._service.app()
            fetched = whose.logs.fetch(
                since=datetime.fromtimestamp(since, UTC), until=datetime.fromtimestamp(until, UTC)
            )
            return [
                LogEntry(one, "", int(each.timestamp.timestamp() * 1e9), STREAMS[each.source], each.message)
                for each in fetched
                if is_sandbox or one in each.context_ids
            ]

        kinds = (Trouble.NOT_FOUND, Trouble.INVALID, Trouble.OTHER)  # no task yet: an ExecutionError
        return or_none(api_error, lambda: bounded(read, READ_S), *kinds) or []

    # -- the end

    def tail(self, one: str, count: int, cursor: Cursor, job: Source, *, is_over: bool) -> LogChunk:
        """Return the last ``count`` lines after a cursor, and the cursor behind them."""
        app_id = self._service.app_id
        if app_id is None:
            return LogChunk([], cursor)
        position = Position.parse(cursor)
        since = max(position.cursor.time_ms / 1000 or job.begin - EARLY_OF_ONE_S, time.time() - OLDEST_S)
        wanted = count + MORE
        while True:
            entries = self._last(app_id, one, wanted, since)
            lines, after = position.after(entries, is_whole=is_over)
            shown = visible(lines)
            if len(shown) > count or len(entries) < wanted or wanted >= MOST:
                break
            wanted = min(wanted * GROWTH, MOST)
        if len(entries) >= wanted:  # what is before them stays out, and the cursor has all of that time
            oldest_ms = min(entry.time_ns for entry in entries) // 1_000_000
            entries = self._last(app_id, one, MOST, oldest_ms / 1000)
            lines, after = position.after(entries, is_whole=is_over)
            after = replace(after, cursor=after.cursor.since(oldest_ms))
        receipt = _receipt(lines, job.nonce)
        after = replace(after, has_receipt=after.has_receipt or receipt is not None)
        return LogChunk(shown[-count:], str(after) if lines else cursor, receipt)

    def _last(self, app_id: str, one: str, count: int, since: float) -> list[LogEntry]:
        client = self._service.client
        if not private.is_open(private.LOGS):
            return self._of_one(one, since, time.time())
        task = self._service.task_of(one)
        return bounded(lambda: private.last_entries(client, app_id, one, task, count, since), READ_S)


def _receipt(lines: list[Line], nonce: str) -> str | None:
    """Return the last receipt that the runner of the job has written; the step may print others."""
    return receipt_text((text for _, text in lines), lambda receipt: is_of_runner(receipt, nonce))


def _chunk(lines: list[Line], cursor: Cursor, receipt: str | None) -> LogChunk | None:
    shown = visible(lines)
    return LogChunk(shown, cursor, receipt) if shown or receipt is not None else None
