"""Answers of an API server to requests for a log, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace


def answer_of(lines: Iterable[str]) -> SimpleNamespace:
    """Return an unread answer with these lines, as urllib3 has it."""
    data = "".join(f"{line}\n" for line in lines).encode()
    return SimpleNamespace(data=data, stream=lambda _: iter([data]), headers={}, close=lambda: None)
