"""Faults that a test injects: errors, answers that are lost or cut, and requests that are held."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.emulators.gcs.errors import ApiError, LostAnswerError

KINDS = {
    "unavailable": (503, "ServiceUnavailable", "We encountered an internal error. Please try again."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
    "throttle": (429, "SlowDown", "Please reduce your request rate."),
}


@dataclass
class Fault:
    """Requests of an operation (a pattern, such as ``GET object``) fail ``count`` times.

    The kind ``lost`` ends the connection without an answer. The kind ``hold`` waits for :attr:`release`.

    :param count: how many requests fail; ``None``: all
    :param after: the request is carried out before it fails
    """

    kind: str
    operation: str = "*"
    count: int | None = 1
    after: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.kind not in ("lost", "hold") and self.kind not in KINDS:
            raise ValueError(f"no kind of fault: {self.kind}; there are lost, hold, {', '.join(KINDS)}")

    def hits(self, operation: str, after: bool) -> bool:
        if self.after != after or self.count == 0 or not fnmatchcase(operation, self.operation):
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def strike(self) -> None:
        self.reached.set()
        if self.kind == "hold":
            self.release.wait(60)
        elif self.kind == "lost":
            raise LostAnswerError
        else:
            raise ApiError(*KINDS[self.kind])


class Faults:
    """All faults, and a count of the requests by operation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.asked: Counter[str] = Counter()

    def add(self, kind: str, operation: str = "*", count: int | None = 1, after: bool = False) -> Fault:
        fault = Fault(kind, operation, count, after)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.release.set()
            self._faults.clear()
            self.asked.clear()

    def strike(self, operation: str, *, after: bool) -> None:
        with self._lock:
            if not after:
                self.asked[operation] += 1
            hit = next((one for one in self._faults if one.hits(operation, after)), None)
        if hit is not None:
            hit.strike()
