"""Faults that a test injects into the wire: throttling, errors, and answers that are lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.emulators.sagemaker.errors import ApiError

KINDS = {
    "throttle": ("ThrottlingException", "Rate exceeded", 400),
    "internal": ("InternalFailure", "We encountered an internal error. Please try again.", 500),
    "unavailable": ("ServiceUnavailable", "The request has failed due to a temporary failure", 503),
    "expired": ("ExpiredTokenException", "The security token included in the request is expired", 400),
}


class LostAnswerError(Exception):
    """The connection ends without an answer."""


@dataclass
class Fault:
    """Requests of an operation (a pattern) fail, ``count`` times or for some seconds; without both, for ever.

    ``after``: the request is carried out before it fails. Kind ``lost``: the connection ends without an
    answer. Kind ``slow``: the answer comes ``delay_s`` late.
    """

    kind: str = "internal"
    operation: str = "*"
    count: int | None = None
    seconds: float | None = None
    after: bool = False
    delay_s: float = 0.0  # of the kind "slow": the answer comes so late, and is otherwise as it is
    code: str = ""  # another error than that of the kind
    message: str = ""
    status: int = 0
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.kind not in ("lost", "slow") and self.kind not in KINDS:
            raise ValueError(f"no kind of fault: {self.kind}; there are lost, slow, {', '.join(KINDS)}")

    def strikes(self, operation: str) -> bool:
        over = self.seconds is not None and time.monotonic() > self.since + self.seconds
        if over or self.count == 0 or not fnmatchcase(operation, self.operation):
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def error(self) -> Exception:
        if self.kind == "lost":
            return LostAnswerError()
        code, message, status = KINDS[self.kind]
        return ApiError(self.code or code, self.message or message, self.status or status)


class Faults:
    """All faults, the token buckets of the rates, and a count of what was answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._buckets: dict[str, tuple[float, float]] = {}
        self.answers: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
            self._buckets.clear()

    def strike(self, operation: str, *, after: bool) -> None:
        """Raise the error of the first fault that hits the request."""
        with self._lock:
            hit = next((one for one in self._faults if one.after == after and one.strikes(operation)), None)
        if hit and hit.kind == "slow":
            time.sleep(hit.delay_s)
        elif hit:
            raise hit.error()

    def limit(self, operation: str, rates: dict[str, list[float]]) -> None:
        """Raise ThrottlingException for a request above the rate of its operation."""
        if operation not in rates:
            return
        rate, burst = rates[operation]
        now = time.monotonic()
        with self._lock:
            tokens, at = self._buckets.get(operation, (burst, now))
            tokens = min(burst, tokens + (now - at) * rate)
            self._buckets[operation] = (tokens - 1 if tokens >= 1 else tokens, now)
        if tokens < 1:
            code, message, status = KINDS["throttle"]
            raise ApiError(code, message, status)

    def count(self, operation: str, outcome: str) -> None:
        with self._lock:
            self.answers[f"{operation} {outcome}"] += 1
