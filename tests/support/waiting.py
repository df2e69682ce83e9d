"""How tests wait: for an event, and never for a time.

Every limit is here, and none is a measure of speed. Each is far longer than anything takes, also on a machine
that is busy with other things. Only a test that fails meets its limit, and then says what it waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 240.0  # below the limit of pytest-timeout, which would not say what the test waited for


def wait_until(
    look: Callable[[], T],
    what: str,
    *,
    holds: Callable[[T], object] = bool,
    explain: Callable[[], object] | None = None,
    patience_s: float = PATIENCE_S,
    pause_s: float = 0.02,
) -> T:
    """Call ``look`` until ``holds`` accepts its answer, and return that answer.

    :param what: the event, for the message of a test that waited in vain, which also has the last answer
    :param holds: by default an answer is accepted when it is true
    :param explain: returns what else the message says
    :param patience_s: more than the default only where a service needs longer, said by name
    :param pause_s: between two calls
    """
    end = time.monotonic() + patience_s
    while not holds(seen := look()):
        if time.monotonic() > end:
            raise AssertionError(_in_vain(what, patience_s, seen, explain))
        time.sleep(pause_s)
    return seen


async def until(
    look: Callable[[], T],
    what: str,
    *,
    holds: Callable[[T], object] = bool,
    explain: Callable[[], object] | None = None,
    pause_s: float = 0.005,
) -> T:
    """Do as ``wait_until`` does, while the event loop goes on."""
    end = time.monotonic() + PATIENCE_S
    while not holds(seen := look()):
        if time.monotonic() > end:
            raise AssertionError(_in_vain(what, PATIENCE_S, seen, explain))
        await asyncio.sleep(pause_s)
    return seen


async def in_time(waiting: Awaitable[T], what: str) -> T:
    """Return the result of ``waiting``."""
    try:
        async with asyncio.timeout(PATIENCE_S) as limit:
            return await waiting
    except TimeoutError:
        if limit.expired():
            raise AssertionError(f"waited {PATIENCE_S:g} s for {what}") from None
        raise


def _in_vain(what: str, patience_s: float, seen: object, explain: Callable[[], object] | None) -> str:
    message = f"waited {patience_s:g} s for {what}; seen last: {seen!r}"
    try:
        return f"{message}\n{explain()}" if explain else message
    except Exception as error:
        return f"{message}\n(more cannot be told: {error!r})"
