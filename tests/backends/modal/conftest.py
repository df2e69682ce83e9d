"""One emulator for the tests of the backend. Each test begins with a workspace that no other has used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from airflow.sdk import Connection

from airflow_stepop.connections.modal import ModalAccount, account_of, close_clients
from tests.support.modal import Modal, modal_connection, modal_containers, modal_emulator, modal_server

__all__ = ["modal_containers", "modal_emulator", "modal_server"]


@pytest.fixture
def connect() -> Callable[..., Connection]:
    """Return a function that makes a connection; arguments as those of ``modal_connection``."""

    def make(*token: str | None, conn_id: str = "modal_default", **extra: object) -> Connection:
        return Connection.from_json(modal_connection(*token, **extra), conn_id=conn_id)

    return make


@pytest.fixture
def account(modal_server: Modal, connect: Callable[..., Connection]) -> Iterator[ModalAccount]:
    yield account_of(connect())
    close_clients()
