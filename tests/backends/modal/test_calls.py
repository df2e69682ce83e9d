"""Calls of the client: each ends within our own deadline, and each error has a kind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
import ssl
import threading

import pytest

from airflow_stepop.hooks.common.api_errors import Trouble
from airflow_stepop.hooks.modal.calls import api_error, bounded, submit_error

KINDS = {
    "AlreadyExistsError": Trouble.CONFLICT,
    "ConflictError": Trouble.TRANSIENT,  # a subclass of InvalidError
    "InvalidError": Trouble.INVALID,
    "AuthError": Trouble.DENIED,
    "PermissionDeniedError": Trouble.DENIED,
    "NotFoundError": Trouble.NOT_FOUND,
    "ResourceExhaustedError": Trouble.TRANSIENT,
    "ServiceError": Trouble.TRANSIENT,
    "InternalError": Trouble.TRANSIENT,
    "ConnectionError": Trouble.TRANSIENT,
    "VolumeUploadTimeoutError": Trouble.TRANSIENT,
    "RequestSizeError": Trouble.INVALID,
    "DataLossError": Trouble.OTHER,
}


@pytest.mark.parametrize("name", KINDS)
def test_errors_of_the_client(name: str) -> None:
    from modal import exception

    found = api_error(getattr(exception, name)("text"))
    assert (found.kind, found.message, found.code) == (KINDS[name], "text", name)


def test_errors_of_connections() -> None:
    import aiohttp
    from grpclib.exceptions import StreamTerminatedError

    for error in (
        ConnectionResetError("cut"),
        TimeoutError(),
        aiohttp.ClientError(),
        StreamTerminatedError(),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        ssl.SSLError("handshake"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        concurrent.futures.CancelledError(),
    ):
        assert api_error(error).kind is Trouble.TRANSIENT
    for error in (ValueError("ours"), OSError(errno.ENOSPC, "full"), FileNotFoundError("gone")):
        assert api_error(error).kind is Trouble.OTHER


def test_a_limit_is_a_quota_for_a_submit() -> None:
    from modal.exception import ResourceExhaustedError, ServiceError

    assert submit_error(ResourceExhaustedError("full")).kind is Trouble.QUOTA
    assert submit_error(ServiceError("away")).kind is Trouble.TRANSIENT


def test_a_call_that_hangs_is_given_up() -> None:
    """The client alone tries for a minute to reach a server that is not there."""
    go = threading.Event()
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.01 s"):
        bounded(go.wait, 0.01)
    go.set()


def test_a_call_whose_client_was_closed_meanwhile() -> None:
    """Its coroutine is cancelled. Nobody has asked to end the caller."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError, match="closed"):
        bounded(cancelled)


def test_results_and_errors_come_through() -> None:
    assert bounded(lambda: 42) == 42
    with pytest.raises(KeyError, match="own"):
        bounded(lambda: {}["own"])
    own = TimeoutError("of the call itself")

    def late() -> None:
        raise own

    with pytest.raises(TimeoutError) as caught:
        bounded(late)
    assert caught.value is own
