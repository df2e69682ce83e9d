"""The backend ``modal`` passes the contract on Modal itself. It runs only when it is asked to.

CONTRIBUTING.md says what is needed. The sandboxes cost money: about a hundred of them, each for some seconds
with the smallest size. No test asks for a GPU.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_stepop.connections.modal import close_clients
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.folder import folder_uri
from tests.support.modal import modal_connection
from tests.support.modal_contract import CONNECTION, ModalContract

NAMES = ("STEPOP_LIVE_ENVIRONMENT", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
MISSING = [name for name in NAMES if not os.environ.get(name)]
if MISSING:
    # Nobody's machine has a workspace by itself, CI neither, so this is a plain skip
    pytest.skip(f"live: set {', '.join(MISSING)} (see CONTRIBUTING.md)", allow_module_level=True)

ENVIRONMENT, TOKEN_ID, TOKEN_SECRET = (os.environ[name] for name in NAMES)


class TestLiveModal(ModalContract):
    """The real service. There is no bucket: values pass through a Volume of the environment."""

    shares_files = False
    patience_s = 900.0  # an image is pulled, and a sandbox that was told to end goes on for a while
    poll_s = 2.0  # the service allows few requests a second
    spec_options: ClassVar = {}  # Modal's own image, with this version of Python

    @pytest.fixture
    def service(self) -> Any:
        """The emulator is not started. What uses it is replaced below."""
        return None

    @pytest.fixture
    def make_hook(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModalStepHook]]:  # type: ignore[override]
        connection = modal_connection(TOKEN_ID, TOKEN_SECRET, environment=ENVIRONMENT)
        monkeypatch.setenv(CONNECTION, connection)
        yield ModalStepHook
        close_clients()

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:  # type: ignore[override]
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"{tmp_path}/store")
        return open_store(folder_uri(tmp_path / "store"))

    @pytest.fixture
    def checkpoint_uri(self, store: Store) -> str:
        """The Volume keeps what an earlier run of these tests has left, signed with another key."""
        return store.uri(f"checkpoint-{uuid.uuid4().hex}")

    @pytest.fixture
    def full_quota(self) -> Any:
        """No test uses up the quota of a workspace."""
        return None
