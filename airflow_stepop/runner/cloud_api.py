"""Sends small requests to the API of a cloud, with the standard library. The readers of secrets call it.

Transient errors (a cut connection, HTTP 5xx, 408 or 429) are retried with exponential back-off.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
    from urllib.request import OpenerDirector, Request

TIMEOUT_S = 10.0  # of one request
RETRY_LIMIT_S = 60.0  # transient errors are retried for so many seconds
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0


def is_transient(status: int) -> bool:
    """Return whether the same request may succeed later."""
    return status >= 500 or status in (408, 429)


def ask(
    make: Callable[[], Request],
    *,
    is_later: Callable[[int, bytes], bool] = lambda status, body: False,
    is_direct: bool = False,
    ca_file: str | None = None,
) -> tuple[int, bytes]:
    """Send a request until it is answered; return the HTTP status and the body of the last answer.

    :param make: makes the request anew for each try, since a signature is valid for minutes only
    :param is_later: whether the API means a transient error by an answer whose status does not say so
    :param is_direct: use no proxy
    :param ca_file: certificates that replace those of the system
    :raises OSError: there was no answer at all, or ``ca_file`` cannot be read
    """
    from http.client import HTTPException
    from urllib.error import HTTPError

    opener = _opener(is_direct, ca_file)
    until, pause_s = time.monotonic() + RETRY_LIMIT_S, FIRST_PAUSE_S
    while True:
        answered: tuple[int, bytes] | None = None
        problem: object = None
        try:
            with opener.open(make(), timeout=TIMEOUT_S) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                answered = error.code, error.read()
            if not is_transient(answered[0]) and not is_later(*answered):
                return answered
        except (OSError, HTTPException) as error:
            problem = getattr(error, "reason", error)
        if time.monotonic() + pause_s > until:
            if answered is not None:
                return answered
            raise OSError(str(problem))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _opener(is_direct: bool, ca_file: str | None) -> OpenerDirector:
    """Return what sends requests. A redirection is an error: credentials go to no other address."""
    try:
        import ssl
        from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, build_opener
    except ImportError as error:
        raise OSError(f"this Python has no TLS: {error}") from None

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *args: Any, **more: Any) -> None:
            return None

    secure = HTTPSHandler(context=ssl.create_default_context(cafile=ca_file or None))
    return build_opener(NoRedirects, secure, *([ProxyHandler({})] if is_direct else []))
