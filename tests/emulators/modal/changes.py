"""How coroutines of one event loop wait for each other."""

from __future__ import annotations

import asyncio


class Changes:
    """Something that changes. ``notify`` wakes all who wait now."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, limit_s: float | None = None) -> None:
        """Return at the next change, or after ``limit_s``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=limit_s)
        finally:
            self._waiting.discard(future)
