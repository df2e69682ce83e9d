"""The one way in which a test waits: for an event, and never for a time.

Every limit is here. It is far longer than anything takes, also on a machine that is busy with other things;
only a test that fails meets it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 240.0  # below the limit of pytest-timeout, so that the test itself says what it waited for


def wait_until(
    condition: Callable[[], T],
    what: str,
    *,
    explain: Callable[[], object] = lambda: "",
    patience_s: float = PATIENCE_S,
    pause_s: float = 0.02,
) -> T:
    """Return the first answer of ``condition`` that is true.

    :param what: the event, for the message of a test that waited in vain
    :param explain: returns what else the message says
    :param pause_s: between two questions
    """
    end = time.monotonic() + patience_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience_s:g} s for {what}\n{explain()}")
        time.sleep(pause_s)
    return found


async def until(condition: Callable[[], T], what: str = "an event", pause_s: float = 0.005) -> T:
    """Return the first answer of ``condition`` that is true, while the event loop goes on."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")
        await asyncio.sleep(pause_s)
    return found


async def in_time(waiting: Awaitable[T]) -> T:
    """Return the result of ``waiting``."""
    return await asyncio.wait_for(waiting, PATIENCE_S)
