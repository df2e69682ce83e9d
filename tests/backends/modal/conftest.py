"""One emulator for the tests of the backend. Each test begins with a workspace that no other has used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_stepop.connections.modal import ModalAccount, account_of, close_clients
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.folder import folder_uri
from airflow_stepop.stores.paths import result_path
from airflow_stepop.testing import Step, make_step
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


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A folder of this host: no sandbox sees it."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"{tmp_path}/store")
    return open_store(folder_uri(tmp_path / "store"))


@pytest.fixture
def make_hook(
    modal_server: Modal, modal_containers: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], ModalStepHook]]:
    monkeypatch.setenv("AIRFLOW_CONN_MODAL_DEFAULT", modal_connection())
    yield ModalStepHook
    close_clients()


@pytest.fixture
def hook(make_hook: Callable[[], ModalStepHook]) -> ModalStepHook:
    return make_hook()


@pytest.fixture
def step(store: Store) -> Callable[..., Step]:
    """Return a function that makes a step with the store of the test."""

    def make(call: Any = ("true",), **options: Any) -> Step:
        made = make_step(call, **{"image": "python:3.12", **options})
        result_uri = store.uri(result_path(made.spec.labels, made.spec.name))
        return Step(replace(made.spec, result_uri=result_uri), made.payload)

    return make


@pytest.fixture
def submit(hook: ModalStepHook, step: Callable[..., Step]) -> Callable[..., JobHandle]:
    def run(call: Any = ("true",), **options: Any) -> JobHandle:
        made = step(call, **options)
        return hook.submit(made.spec, made.payload)

    return run
