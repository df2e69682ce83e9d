"""Starts the emulator of Modal, and speaks to its control door.

    with modal(timeout_late_s=0.0, second_s=0.1) as service:
        client = service.client()                                 # the real modal.Client
        service.do("plan", sandbox="step-*", hold=["start"])      # they wait ...
        service.do("release", sandbox="step-*", phase="start")    # ... until now
        service.do("fault", kind="unavailable", rpc="SandboxCreateV2", count=4)
        assert service.calls("SandboxListV2") == 1

Orders are in ``tests/emulators/modal/control.py``, what can be set in ``settings.py`` and faults in
``faults.py`` beside it. A ``conftest.py`` imports the fixtures ``modal_emulator``, ``modal_server`` and
``modal_containers``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.emulators.modal.container import unavailable
from tests.support.needs import needs
from tests.support.paths import ROOT
from tests.support.processes import ended
from tests.support.waiting import wait_until

Json = dict[str, Any]
TOKEN_ID, TOKEN_SECRET = "ak-test", "as-test"  # the token that a new emulator knows


@dataclass
class Modal:
    """A running emulator. ``process`` may be killed by a test."""

    url: str  # the value of MODAL_SERVER_URL
    http: str
    process: subprocess.Popen[str]
    _clients: list[Any] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return variables for a process that uses the ``modal`` package with this server.

        There are no credentials, and no file that has some.
        """
        return {"MODAL_SERVER_URL": self.url, "MODAL_CONFIG_PATH": "/nonexistent/modal.toml"}

    def connection(
        self, login: str | None = TOKEN_ID, password: str | None = TOKEN_SECRET, **extra: Any
    ) -> str:
        """Return an Airflow connection, as the value of an environment variable."""
        return modal_connection(login, password, **extra)

    def client(self, token_id: str = TOKEN_ID, secret: str = TOKEN_SECRET) -> Any:
        """Return a real ``modal.Client`` of this server, whatever MODAL_SERVER_URL says."""
        import modal
        from modal_proto import api_pb2

        client = modal.Client(self.url, api_pb2.CLIENT_TYPE_CLIENT, (token_id, secret))
        client.__enter__()
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def do(self, order: str, **fields: Any) -> Json:
        """Send an order of ``tests/emulators/modal/control.py``, and return the report after it."""
        data = json.dumps({"do": order, **fields}).encode()
        return self._asked(urllib.request.Request(f"{self.http}/_control", data=data))

    def report(self) -> Json:
        """Return what the emulator knows: ``sandboxes``, ``volumes``, ``calls`` by RPC and answer, ..."""
        return self._asked(urllib.request.Request(f"{self.http}/_control"))

    def _asked(self, request: urllib.request.Request) -> Json:
        try:
            with urllib.request.urlopen(request) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def sandbox(self, name: str) -> Json:
        """Return the report of the newest sandbox with a name, or with an id."""
        found = [
            {"id": key, **one}
            for key, one in self.report()["sandboxes"].items()
            if name in (key, one["name"])
        ]
        assert found, f"no sandbox {name}"
        return found[-1]

    def calls(self, rpc: str = "", answer: str = "") -> int:
        """Return how many requests of an RPC were answered (in one way, such as ``UNAVAILABLE``)."""
        counted = self.report()["calls"].items()
        return sum(
            count for key, count in counted if rpc in ("", key.split()[0]) and answer in ("", key.split()[1])
        )

    def wait_started(self, name: str) -> Json:
        """Wait until the command of a sandbox runs."""
        found: Json = wait_until(
            lambda: self.sandbox(name), f"sandbox {name} to start", holds=lambda one: one["started"]
        )
        return found

    def wait_over(self, name: str) -> Json:
        """Wait until everybody can see the end of a sandbox."""
        found: Json = wait_until(
            lambda: self.sandbox(name), f"sandbox {name} to end", holds=lambda one: one["over"]
        )
        return found


def modal_connection(login: str | None = TOKEN_ID, password: str | None = TOKEN_SECRET, **extra: Any) -> str:
    """Return an Airflow connection of type ``modal``: login = token id, password = token secret."""
    return json.dumps({"conn_type": "modal", "login": login, "password": password, "extra": extra})


@contextlib.contextmanager
def modal(**settings: Any) -> Iterator[Modal]:
    """Start the emulator as a process of its own. It ends with this process, however that ends.

    :param settings: fields of ``Settings`` in ``tests/emulators/modal/settings.py``
    """
    command = [sys.executable, "-m", "tests.emulators.modal_api", "--with-parent"]
    command += ["--settings", json.dumps(settings)]
    pipe = subprocess.PIPE
    with (
        _folder() as work,
        subprocess.Popen(
            [*command, "--work", work], cwd=ROOT, env=_environment(), stdin=pipe, stdout=pipe, text=True
        ) as process,
    ):
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the emulator did not start: {line!r}, see its standard error"
        service = Modal(*line.split()[1:], process)
        try:
            yield service
        finally:
            service.close_clients()
            process.terminate()
            ended(process)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder that is removed at the end. Sandboxes of an emulator that was killed hold it for a moment."""
    work = tempfile.mkdtemp(prefix="modal-")
    try:
        yield work
    finally:
        wait_until(lambda: _is_removed(work), f"{work} to be removed")


def _is_removed(work: str) -> bool:
    shutil.rmtree(work, ignore_errors=True)
    return not os.path.exists(work)


def _environment() -> dict[str, str]:
    """Return the environment without settings of Modal that a user may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}


@pytest.fixture(scope="session")
def modal_emulator() -> Iterator[Modal]:
    """One emulator for all tests of a folder."""
    with modal() as service:
        yield service


@pytest.fixture
def modal_server(modal_emulator: Modal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modal]:
    """The emulator with a workspace that no test has used; the ``modal`` package leads to it."""
    for name in [name for name in os.environ if name.startswith("MODAL_")]:
        monkeypatch.delenv(name)
    for name, value in modal_emulator.environment.items():
        monkeypatch.setenv(name, value)
    modal_emulator.do("reset")
    yield modal_emulator
    modal_emulator.close_clients()
    assert modal_emulator.calls(answer="BROKEN") == 0, "the emulator failed: see its standard error"
    modal_emulator.do("reset")


@pytest.fixture
def modal_containers() -> None:
    """A host where the commands of sandboxes can run."""
    needs(not unavailable(), f"namespaces for sandboxes: {unavailable()}")
