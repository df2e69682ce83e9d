"""Faults that a test injects into the wire: errors, throttling, and answers that are late or lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from grpclib import GRPCError, Status
from modal_proto import api_pb2

KINDS = {
    "unavailable": (Status.UNAVAILABLE, "service unavailable"),
    "internal": (Status.INTERNAL, "internal error"),
    "deadline": (Status.DEADLINE_EXCEEDED, "deadline exceeded"),
    "exhausted": (Status.RESOURCE_EXHAUSTED, "rate limit exceeded"),  # bare: the client raises at once
    "throttle": (Status.RESOURCE_EXHAUSTED, "rate limit exceeded"),  # the client waits as the server asks
    "denied": (Status.PERMISSION_DENIED, "permission denied"),
    "auth": (Status.UNAUTHENTICATED, "token validation failed"),
}
# lost: the connection ends without an answer; slow: the answer comes late; hold: it comes after clear_faults
CONNECTION = ("lost", "slow", "hold")


class LostAnswerError(Exception):
    """The connection ends without an answer."""


@dataclass
class Fault:
    """Requests of an RPC (a pattern) fail, ``count`` times or for some seconds; without both, for ever.

    ``after``: the request is carried out before it fails. The client sends a request up to four times, so a
    fault that a caller shall see has a ``count`` of four, or none. Kind ``slow`` answers ``delay_s`` late.
    Kind ``throttle`` asks the client to come back after ``retry_after_s``. ``skip``: so many requests pass
    first. The report has the RPCs that are on hold.
    """

    kind: str = "internal"
    rpc: str = "*"
    count: int | None = None
    skip: int = 0
    seconds: float | None = None
    after: bool = False
    delay_s: float = 0.0
    retry_after_s: float = 0.2
    message: str = ""
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.kind not in KINDS and self.kind not in CONNECTION:
            known = ", ".join([*CONNECTION, *KINDS])
            raise ValueError(f"no kind of fault: {self.kind}; there are {known}")

    def strikes(self, rpc: str) -> bool:
        over = self.seconds is not None and time.monotonic() > self.since + self.seconds
        if over or self.count == 0 or not fnmatchcase(rpc, self.rpc):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def error(self) -> Exception:
        if self.kind == "lost":
            return LostAnswerError()
        status, message = KINDS[self.kind]
        details = [api_pb2.RPCRetryPolicy(retry_after_secs=self.retry_after_s)]
        return GRPCError(status, self.message or message, details if self.kind == "throttle" else None)


class Faults:
    """All faults, the rates, and a count of what was answered."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._buckets: dict[str, tuple[float, float]] = {}
        self.answers: Counter[str] = Counter()
        self.held: list[str] = []
        self._cleared = asyncio.Event()

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()
        self._buckets.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def strike(self, rpc: str, *, after: bool) -> None:
        """Raise the error of the first fault that hits the request."""
        hit = next((one for one in self._faults if one.after == after and one.strikes(rpc)), None)
        if hit and hit.kind == "slow":
            await asyncio.sleep(hit.delay_s)
        elif hit and hit.kind == "hold":
            await self._hold(rpc)
        elif hit:
            raise hit.error()

    async def _hold(self, rpc: str) -> None:
        self.held.append(rpc)
        try:
            await self._cleared.wait()
        finally:
            self.held.remove(rpc)

    def limit(self, rpc: str, rates: dict[str, list[float]]) -> None:
        """Raise RESOURCE_EXHAUSTED for a request above the rate of its RPC: [per second, burst]."""
        if rpc not in rates:
            return
        rate, burst = rates[rpc]
        now = time.monotonic()
        tokens, at = self._buckets.get(rpc, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        self._buckets[rpc] = (tokens - 1 if tokens >= 1 else tokens, now)
        if tokens < 1:
            raise Fault("exhausted").error()

    def count(self, rpc: str, outcome: str) -> None:
        self.answers[f"{rpc} {outcome}"] += 1
