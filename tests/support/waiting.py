"""How tests wait: for an event, and never for a time.

All limits are here. A limit is far longer than the event takes on a busy machine, so it measures no speed.
Only a failing test reaches its limit. Its message names the event.
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

    When the limit is reached, the test fails. The message names the event and has the last answer.

    :param what: the event
    :param holds: by default every true answer is accepted
    :param explain: returns more text for the message
    :param patience_s: the limit in seconds. Only a slower event has a limit above the default
    :param pause_s: seconds between two calls
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
    """Wait like ``wait_until``. The event loop goes on meanwhile."""
    end = time.monotonic() + PATIENCE_S
    while not holds(seen := look()):
        if time.monotonic() > end:
            raise AssertionError(_in_vain(what, PATIENCE_S, seen, explain))
        await asyncio.sleep(pause_s)
    return seen


async def in_time(waiting: Awaitable[T], what: str) -> T:
    """Return the result of ``waiting``; fail when it takes longer than ``PATIENCE_S``."""
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
