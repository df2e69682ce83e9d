"""Follows many jobs with few requests, by the list of a service that can be asked for what has changed.

A hook's ``status`` keeps one :class:`Listing` and calls :meth:`Listing.looks` at every poll.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

FORGET_S = 3600.0  # a job that nobody has asked for in this time is forgotten
SILENT_SHARE = 60  # one of so many jobs, at most, is asked for in one look because it was silent for long


@dataclass
class _Known(Generic[T]):
    """What is known of one job.

    :param modified: the service's time of the job's last change that is in the view; ``None``: unknown
    :param seen_s: when the service last said something about the job, by the clock of this process
    :param asked_s: when the caller last asked for the job, by the clock of this process
    :param is_final: the view is that of an ended job, asked for by its id: it cannot change
    """

    view: T
    modified: float | None
    seen_s: float
    asked_s: float
    is_final: bool = False


class Listing(Generic[T]):
    """The current views of jobs, from an incremental list and few requests for single jobs.

    **How it works:** Each look lists what has changed since the newest change that was seen. The window
    overlaps the one before, since an entry may appear late in a list. A job is asked for by its id when no
    list has shown it, when a list shows that it has ended (a list seldom says why), and when no list has
    shown it for ``silent_s``, since a job that vanished shows in no list. So a job is gone only if the
    service said so when asked for this id. The view of an ended job never changes again, also if an older or
    a newer entry of it comes back in a list.

    **Errors:** An error of a request is raised unchanged. The next look then begins where the last complete
    list has ended.

    **Clocks:** Only the service's own times are compared, and no clock of this host. If the service stamps
    one change in the future, the other jobs are noticed by ``silent_s`` until this time has come.

    :param list_since: returns (id, view, time of the last change by the service's clock) of every job that
        changed at or after a time, in any order; ``None``: from the beginning. Times in seconds since the
        epoch
    :param get: returns the complete view of one job; ``None`` if the service does not know the job
    :param is_over: whether a view is that of a job that has ended
    :param few: so many jobs, or fewer, are asked for by id, without a list
    :param overlap_s: how late, in seconds, an entry may appear in a list
    :param changed_at: returns when the job of a view last changed, by the service's clock; ``None``: unknown.
        With it, an entry that comes late in a list never hides a newer view that ``get`` returned
    """

    silent_s = 1800.0
    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        list_since: Callable[[float | None], Iterable[tuple[str, T, float]]],
        get: Callable[[str], T | None],
        *,
        is_over: Callable[[T], bool],
        few: int = 3,
        overlap_s: float = 30.0,
        changed_at: Callable[[T], float | None] = lambda view: None,
    ) -> None:
        self._list_since = list_since
        self._get = get
        self._is_over = is_over
        self._few = few
        self._overlap_s = overlap_s
        self._changed_at = changed_at
        self._known: dict[str, _Known[T]] = {}
        self._newest: float | None = None  # the newest change in a complete list, by the service's clock
        self._newest_s = 0.0  # when it was first seen, by the clock of this process
        self._listed_s = 0.0  # when the last complete list began, by the clock of this process
        self._lock = threading.Lock()

    def looks(self, ids: Iterable[str], begin: float | None = None) -> Mapping[str, T | None]:
        """Return the view of each job; ``None`` for a job that the service does not know.

        :param begin: where a list begins if more than ``few`` of the jobs are new to this object, for example
            the submit of the oldest one, by the service's clock
        """
        with self._lock:
            wanted = list(dict.fromkeys(ids))
            self._note_asked(wanted)
            still_open = [job for job in wanted if not self._is_final(job)]
            if len(still_open) > self._few:
                self._read_list(set(still_open), begin)
                asked = self._unclear(still_open)
            else:
                asked = still_open
            for job in asked:
                self._ask(job)
            return {job: self._known[job].view if job in self._known else None for job in wanted}

    def _is_final(self, job: str) -> bool:
        return job in self._known and self._known[job].is_final

    def _note_asked(self, wanted: Sequence[str]) -> None:
        now = self.clock()
        for job in wanted:
            if job in self._known:
                self._known[job].asked_s = now
        for job in [job for job, known in self._known.items() if now - known.asked_s > FORGET_S]:
            del self._known[job]

    def _read_list(self, wanted: set[str], begin: float | None) -> None:
        since = self._window()
        if since is None:
            since = begin
        elif begin is not None and len(wanted - self._known.keys()) > self._few:
            since = min(since, begin)
        newest, began_s = self._newest, self.clock()
        for job, view, modified in self._list_since(since):
            newest = modified if newest is None else max(newest, modified)
            if job in wanted:
                self._take(job, view, modified)
        # Only now: after an error the next list begins at the same place
        if newest != self._newest:
            self._newest, self._newest_s = newest, self.clock()
        self._listed_s = began_s

    def _window(self) -> float | None:
        """Return where the next list begins, by the service's clock; ``None``: no list has shown a job.

        When nothing has changed for ``overlap_s``, no entry before the newest one can still be late.
        """
        if self._newest is None:
            return None
        quiet_s = max(0.0, self._listed_s - self._newest_s)
        return self._newest - max(0.0, self._overlap_s - quiet_s)

    def _take(self, job: str, view: T, modified: float) -> None:
        """Take an entry of a list, unless it is older than what is known of the job."""
        now, known = self.clock(), self._known.get(job)
        if known is None:
            self._known[job] = _Known(view, modified, now, now)
            return
        last = known.modified
        is_same_time = last is not None and modified == last
        if last is not None and (modified < last or (is_same_time and self._is_over(known.view))):
            return
        known.view, known.modified, known.seen_s = view, modified, now

    def _unclear(self, still_open: Sequence[str]) -> list[str]:
        """Return the jobs to ask for by id after a list was read."""
        now = self.clock()
        unknown = [job for job in still_open if job not in self._known]
        ended = [job for job in still_open if job in self._known and self._is_over(self._known[job].view)]
        silent = [
            job for job in still_open if job in self._known and now - self._known[job].seen_s > self.silent_s
        ]
        silent.sort(key=lambda job: self._known[job].seen_s)  # the longest silence first
        most = max(1, len(still_open) // SILENT_SHARE)
        return list(dict.fromkeys([*unknown, *ended, *silent[:most]]))

    def _ask(self, job: str) -> None:
        view, now = self._get(job), self.clock()
        if view is None:
            self._known.pop(job, None)
            return
        modified = self._changed_at(view)
        if modified is None:
            modified = self._newest  # the view is newer than every change that a list has shown
        self._known[job] = _Known(view, modified, now, now, is_final=self._is_over(view))
