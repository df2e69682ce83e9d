"""Calls of the ``modal`` client: each has a deadline of our own, and each error a kind.

Every other module of this backend calls the client through :func:`bounded`.

Source: ``modal/exception.py`` of the package ``modal`` 1.6.4, which maps each gRPC status to a class.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from airflow_stepop.hooks.common.api_errors import ApiError, Trouble

T = TypeVar("T")

CALL_S = 20.0  # the client itself gives a server up that is not there after 56 s
# Of calls that move data: the client tries a block for up to nine minutes, also where no block can arrive
UPLOAD_S, UPLOAD_BYTES_PER_S = 60.0, 256 << 10

# Class of modal.exception -> kind. The first class of an error's own classes counts: ConflictError is an
# InvalidError. FAILED_PRECONDITION and ABORTED are a ConflictError: the same call may soon succeed
_TROUBLES = {
    "AlreadyExistsError": Trouble.CONFLICT,
    "ConflictError": Trouble.TRANSIENT,
    "AuthError": Trouble.DENIED,
    "PermissionDeniedError": Trouble.DENIED,
    "NotFoundError": Trouble.NOT_FOUND,
    "ResourceExhaustedError": Trouble.TRANSIENT,
    "ServiceError": Trouble.TRANSIENT,
    "InternalError": Trouble.TRANSIENT,
    "InternalFailure": Trouble.TRANSIENT,
    "ConnectionError": Trouble.TRANSIENT,
    "TimeoutError": Trouble.TRANSIENT,
    "ClientClosed": Trouble.TRANSIENT,
    "ImageBuildError": Trouble.INVALID,
    "InvalidError": Trouble.INVALID,
    "RequestSizeError": Trouble.INVALID,
    "UnimplementedError": Trouble.INVALID,
    "VersionError": Trouble.INVALID,
    "SerializationError": Trouble.INVALID,
}
# The client's libraries for HTTP, and gRPC connections that were cut
_LOST = ("aiohttp.", "grpclib.exceptions", "h2.exceptions", "asyncio.exceptions", "concurrent.futures")
_NO_NETWORK = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT)
NO_ROOM = "ResourceExhaustedError"


def bounded(call: Callable[[], T], limit_s: float = CALL_S) -> T:
    """Return the result of a blocking call of the client, or give it up.

    A call that is given up goes on in its own thread, and may still have its effect: look before you repeat.

    :raises TimeoutError: the call took longer than ``limit_s`` seconds
    :raises ConnectionError: the client was closed meanwhile
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name="stepop-modal", daemon=True).start()
    try:
        return found.result(limit_s)
    except asyncio.CancelledError:
        raise ConnectionError("the client of Modal was closed during the call") from None
    except TimeoutError:
        if found.done():  # the call itself raised it
            raise
        raise TimeoutError(f"Modal did not answer within {limit_s:g} s") from None


def api_error(error: Exception) -> ApiError:
    """Classify an error of the client: see :class:`ApiError`. Too many requests are transient."""
    names = [
        kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(("modal.", "modal_"))
    ]
    text = str(error)
    for name in names:
        if name in _TROUBLES:
            return ApiError(_TROUBLES[name], text or name, names[0])
    if type(error).__module__.startswith(_LOST) or _is_of_network(error):
        return ApiError(Trouble.TRANSIENT, text or type(error).__name__, type(error).__name__)
    return ApiError(Trouble.OTHER, text, names[0] if names else "")


def _is_of_network(error: Exception) -> bool:
    kinds = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
    return isinstance(error, kinds) or (isinstance(error, OSError) and error.errno in _NO_NETWORK)


def submit_error(error: Exception) -> ApiError:
    """Classify an error of a submit: a limit of the workspace is a quota, which is waited for."""
    found = api_error(error)
    return replace(found, kind=Trouble.QUOTA) if found.code == NO_ROOM else found


def upload_limit_s(size: int) -> float:
    """Return how long an upload of so many bytes may take, in seconds: a slow line has 256 KiB a second."""
    return UPLOAD_S + size / UPLOAD_BYTES_PER_S
