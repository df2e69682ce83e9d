"""The contract for the backend ``modal``, against an emulator that runs the sandboxes' commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pytest

from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import HookContract
from tests.emulators.modal.container import unavailable
from tests.support.modal import Modal, modal
from tests.support.needs import needs
from tests.support.s3 import S3Server

CONNECTION = "AIRFLOW_CONN_MODAL_DEFAULT"


def error(name: str) -> Exception:
    from modal import exception

    found: Exception = getattr(exception, name)("again")
    return found


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modal]:
    """Its sandboxes see the folders of the tests, so that a step can tell a test of its start."""
    needs(not unavailable(), f"namespaces for sandboxes: {unavailable()}")
    with modal(shared=[str(tmp_path_factory.getbasetemp())]) as service:
        yield service


class ModalContract(HookContract):
    """Real processes in namespaces of their own, the real client of Modal, a real S3 server."""

    patience_s = 120.0
    poll_s = 0.05
    other_place: ClassVar = {"app_name": "another-app"}
    unsupported: ClassVar = {
        "nodes": ResourceSettings(nodes=2),
        "shm": ResourceSettings(shm="1GB"),
    }
    # No process of a container can kill its process 1. It can forbid the runner's processes to write files
    crash = (
        "python3",
        "-c",
        "import os, resource\n"
        "for pid in (os.getppid(), 1): resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))",
    )

    @property
    def transient_errors(self) -> list[Exception]:  # type: ignore[override]
        names = (
            "ServiceError",
            "InternalError",
            "ConnectionError",
            "ResourceExhaustedError",
            "ConflictError",
        )
        return [ConnectionResetError("cut"), TimeoutError("late"), *map(error, names)]

    @property
    def native_states(self) -> set[str]:  # type: ignore[override]
        from modal_proto import api_pb2

        names = api_pb2.GenericResult.GenericStatus.keys()
        return {name.removeprefix("GENERIC_STATUS_") for name in names}

    @pytest.fixture
    def service(self, emulator: Modal, monkeypatch: pytest.MonkeyPatch) -> Modal:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        return emulator

    @pytest.fixture
    def make_hook(self, service: Modal, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ModalStepHook]:
        monkeypatch.setenv(CONNECTION, service.connection())
        return ModalStepHook

    @pytest.fixture
    def store(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        address = s3_server.new_address()
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        store = open_store(address)
        yield store
        store.delete_folder("")

    spec_options: ClassVar = {"image": "python:3.12"}

    @pytest.fixture
    def full_quota(self, service: Modal) -> AbstractContextManager[None]:
        return no_room(service)


@contextmanager
def no_room(service: Modal) -> Iterator[None]:
    service.do("fault", kind="exhausted", rpc="SandboxCreateV2", count=1000)
    try:
        yield
    finally:
        service.do("clear_faults")
