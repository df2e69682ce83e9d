"""How obstore is called: options, retries, and the text of its errors. Called by the stores in buckets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

RETRY_LIMIT_S = 240.0  # transient errors of the store are retried for this long
# High enough that only RETRY_LIMIT_S ends the retries. The pauses are random and grow slowly: 60 tries were
# used up after 30 to 40 seconds
_TRIES = 10_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_DROPPED = "connection was not ready"  # error text of hyper, the HTTP library below obstore


def client_options() -> ClientConfig:
    return {"timeout": "300s", "connect_timeout": "10s", "read_timeout": "60s"}


def retry_config() -> RetryConfig:
    from datetime import timedelta

    pauses: BackoffConfig = {
        "init_backoff": timedelta(seconds=_FIRST_PAUSE_S),
        "max_backoff": timedelta(seconds=_LONGEST_PAUSE_S),
        "base": 2,
    }
    return {"max_retries": _TRIES, "retry_timeout": timedelta(seconds=RETRY_LIMIT_S), "backoff": pauses}


def object_size(client: ObjectStore, path: str) -> int:
    """Return the size of an object in bytes. The call blocks."""
    import obstore

    return int(again(lambda: obstore.head(client, path))["size"])


def delete_object(client: ObjectStore, path: str) -> None:
    """Delete an object if it exists. The call blocks."""
    import obstore

    with suppress(FileNotFoundError):
        again(lambda: obstore.delete(client, path))


def again(ask: Callable[[], T]) -> T:
    """Call ``ask``; retry when the server closes an idle connection at that moment. obstore does not do so.

    Not for streams: a retry in the middle of a listing or of an upload may find the stream at its end. The
    caller would then take the first part for the whole.
    """
    end, pause_s = time.monotonic() + RETRY_LIMIT_S, _FIRST_PAUSE_S
    while True:
        try:
            return ask()
        except Exception as error:
            if _DROPPED not in str(error) or time.monotonic() > end:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def error_text(error: Exception) -> str:
    """Return the store's error text without the request, which contains parts of the credentials."""
    text = str(error).partition("\n\nDebug source")[0]
    found = [re.search(f"<{tag}>([^<]*)", text) for tag in ("Code", "Message", "Details")]
    if any(found):
        return ": ".join(match.group(1).rstrip(".") for match in found if match)
    return text.partition("\n")[0].partition("?")[0][:500].rstrip(". ")
