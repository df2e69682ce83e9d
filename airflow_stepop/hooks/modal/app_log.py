"""Reads the log of an App once for all of its sandboxes. ``job_logs.py`` calls it.

The watcher asks for the logs of a thousand sandboxes in many calls, a hundred in each. The log of the App has
the lines of all of them. So one read serves the calls of the next seconds.

A read is one request that counts the pieces, and one for each 2,000 of them.
Source: ``modal/_logs.py`` of the package ``modal`` 1.6.4.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.calls import bounded
from airflow_stepop.hooks.modal.service import is_container

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.private import LogEntry
    from airflow_stepop.hooks.modal.service import Service

READ_S = 120.0
FEW, MANY = 3, 100
# How long a read is used again: with few sandboxes not at all, with more of them, and with many
SOME_S, MANY_S = 2.0, 5.0


@dataclass(frozen=True)
class Read:
    """What the log of the App had in a time. Times are in seconds since the epoch.

    :param of_sandbox: id of a sandbox -> its pieces, oldest first
    :param of_task: id of a container -> its pieces
    :param nameless: ids of the containers whose pieces do not say their sandbox
    :param newest: when the newest piece was written, by the service's own clock; 0: there is none
    """

    begin: float
    until: float
    of_sandbox: Mapping[str, list[LogEntry]]
    of_task: Mapping[str, list[LogEntry]]
    nameless: frozenset[str]
    newest: float


class AppLog:
    """The newest part of the log of one App. Several threads may use it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._last: Read | None = None
        self._ends_at = 0.0  # the last read is used until then, on the monotonic clock
        self._asked: set[str] = set()  # the sandboxes that were asked for since the last read

    def read(self, app_id: str, ids: Collection[str], begin: float, *, is_fresh: bool) -> Read:
        """Return a read that begins at ``begin`` or before.

        :param ids: the sandboxes that are asked for
        :param begin: in seconds since the epoch
        :param is_fresh: what was read before does not do, because the caller waits for the last lines
        """
        with self._lock:
            self._asked |= set(ids)
            last = self._last
            if not is_fresh and last is not None and last.begin <= begin and time.monotonic() < self._ends_at:
                return last
            found = self._read(app_id, begin, time.time())
            self._last, self._ends_at = found, time.monotonic() + _reuse_s(len(self._asked))
            self._asked.clear()
            return found

    def _read(self, app_id: str, begin: float, until: float) -> Read:
        client = self._service.client
        of_sandbox: dict[str, list[LogEntry]] = {}
        of_task: dict[str, list[LogEntry]] = {}
        nameless = set()
        entries = bounded(lambda: private.entries(client, app_id, begin, until), READ_S)
        for entry in entries:
            of_task.setdefault(entry.task_id, []).append(entry)
            if entry.sandbox_id:
                of_sandbox.setdefault(entry.sandbox_id, []).append(entry)
            else:
                nameless.add(entry.task_id)
        return Read(begin, until, of_sandbox, of_task, frozenset(nameless), newest_of(entries))

    def pieces(self, read: Read, one: str) -> list[LogEntry]:
        """Return the pieces of one sandbox, in any order."""
        if is_container(one):
            return read.of_task.get(one, [])
        found = read.of_sandbox.get(one, [])
        if read.nameless and (task := self._service.task_of(one)) in read.nameless:
            found = found + [entry for entry in read.of_task[task] if not entry.sandbox_id]
        return found


def newest_of(entries: Iterable[LogEntry]) -> float:
    """Return when the newest piece was written, in seconds since the epoch; 0: there is none."""
    return max((entry.time_ns for entry in entries), default=0) / 1e9


def _reuse_s(count: int) -> float:
    return 0.0 if count <= FEW else SOME_S if count <= MANY else MANY_S
