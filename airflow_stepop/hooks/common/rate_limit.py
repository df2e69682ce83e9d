"""Limits how often the processes of this host call an operation of a service. Hooks keep :class:`RateLimit`.

A service limits the requests of an account. Each worker is a process of its own, so a limit within one
process would not help.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_stepop.core.host import airflow_folder, host_id
from airflow_stepop.core.naming import slug

LOCK_S = 1.0  # the lock is held for microseconds; longer means that its process was stopped
_LOCK_PAUSE_S = 0.002
_STORED = struct.Struct("<d")

log = logging.getLogger(__name__)


class RateLimit:
    """At most ``per_s`` calls per second, by all processes of this host together.

    **How it works:** A small file in ``$AIRFLOW_HOME/stepop/rates`` holds the time from which the next call
    is allowed, on the host's monotonic clock. A process locks the file only to read and write this time. It
    waits without the lock, and its turn is written only when it goes on. So a process that was killed,
    stopped or interrupted while it waited, or while it had the lock, delays nobody. A time further in the
    future than this class ever writes is that of an earlier boot, and is ignored.

    **Known limits:** Hosts, and containers with a home folder of their own, do not know of each other. If the
    file cannot be used, the limit holds within each process.

    :param name: name of the limit; objects with the same name share it. Name the account and the operation
    :param per_s: allowed calls per second
    :param burst: so many calls may follow each other at once after a pause
    """

    def __init__(self, name: str, per_s: float, burst: int = 1) -> None:
        self.name = name
        self._interval_s = 1 / per_s
        self._burst_s = burst * self._interval_s
        self._path = airflow_folder("rates") / f"{slug(host_id(), 60)}.{slug(name, 100)}"
        self._own_next_s = -math.inf  # used without the file
        self._own_lock = threading.Lock()

    def wait(self) -> None:
        """Wait until one more call is allowed, and count it."""
        while (pause_s := self._take()) > 0:
            # Processes that wait for the same moment do not all ask for the lock at once
            time.sleep(pause_s + random.uniform(0, 0.05 * self._interval_s))  # noqa: S311 - no secret

    def _take(self) -> float:
        """Count a call and return 0, if a call is allowed now; else return the seconds until one may be."""
        try:
            with self._locked() as file:
                if file is not None:
                    pause_s, after_s = self._decide(_read(file))
                    if pause_s <= 0:
                        os.pwrite(file, _STORED.pack(after_s), 0)
                    return pause_s
        except OSError as error:
            log.debug("The rate limit %s holds within this process only: %s", self.name, error)
        with self._own_lock:
            pause_s, after_s = self._decide(self._own_next_s)
            if pause_s <= 0:
                self._own_next_s = after_s
            return pause_s

    def _decide(self, stored_s: float) -> tuple[float, float]:
        """Return the seconds to wait, and the time to store if there is nothing to wait for.

        The stored time is when a full burst would be allowed again. It is never more than a burst ahead.
        """
        now = time.monotonic()
        full_s = stored_s if now < stored_s <= now + self._burst_s else now
        return full_s + self._interval_s - self._burst_s - now, full_s + self._interval_s

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Context manager: the file, locked; ``None`` if another process holds the lock and does not go on.

        The kernel releases the lock of a process that ends, however it ends.
        """
        file = self._open()
        try:
            end = time.monotonic() + LOCK_S
            while not (is_ours := _take_lock(file)) and time.monotonic() < end:
                time.sleep(random.uniform(0, 2 * _LOCK_PAUSE_S))  # noqa: S311 - no secret
            yield file if is_ours else None
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o600)


def _take_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> float:
    data = os.pread(file, _STORED.size, 0)
    found: float = _STORED.unpack(data)[0] if len(data) == _STORED.size else -math.inf
    return found
