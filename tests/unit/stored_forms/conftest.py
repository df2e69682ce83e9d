"""The stored forms of each version that was released, in places of the test."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.core.host import host_id
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.hooks.local.supervisor.linux import boot_id, kill_marked
from airflow_stepop.hooks.local.supervisor.systems import LINUX, OWN
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.record import CallIdentity
from airflow_stepop.registry import create_hook
from tests.support.memory_backend import Request, hook, new_try, state  # noqa: F401 - fixtures
from tests.support.stored_forms import ENVIRONMENT, Forms, Places, owner_of, placed, versions
from tests.support.waiting import wait_until


@pytest.fixture(params=versions(), ids=lambda forms: forms.version)
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Forms:
    """The forms of one version, with the key of that deployment in the configuration."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return request.param


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return {
        "@JOBS@": str(tmp_path / "jobs"),
        "@STORE@": str(tmp_path / "store"),
        "@BUCKET@": (tmp_path / "bucket").as_uri(),
        "@HOST@": host_id(),
        "@BOOT@": boot_id(),
        "@PYTHON@": sys.executable,
        "@WORK@": str(tmp_path),
    }


@pytest.fixture
def store(forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of the deployment. Its bucket is a folder here, so that no test needs a server."""
    for name in ("store", "bucket"):
        shutil.copytree(forms.folder / name, tmp_path / name)
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", (tmp_path / "bucket").as_uri())
    monkeypatch.setenv("AIRFLOW__STEPOP__LOCAL_FOLDER", str(tmp_path / "jobs"))
    return tmp_path / "store"


class StoredRequest(Request):
    """The request of a task whose record was stored. The step itself is the same as before."""

    def __init__(self, record: Any) -> None:
        self.backend = record["backend"]
        self.conn_id = record["conn_id"]
        self.keep = record["keep"]
        super().__init__(create_hook(self.backend, self.conn_id), CallIdentity(**record["call"]))
        self.labels = owner_of(record)

    def read(self, report: Any, job: str, nonce: str) -> Any:
        return read_outcome(report, job, nonce, self.labels["task_id"])


class StoredLocalJob:
    """A local job as a version left it. The supervisor and the runner are those of that version."""

    def __init__(self, forms: Forms, places: Places) -> None:
        self.forms = forms
        self.record = placed(forms.read("records/submitted"), places)
        self.path = Path(places["@JOBS@"]) / self.record["name"]
        self.go = self.path.parent / "go"
        self.places = places
        self._go_fd: int | None = None

    def put(self, name: str) -> None:
        """Copy the job's folder into its place. Git holds neither pipes nor empty folders."""
        shutil.copytree(self.forms.folder / "jobs" / name, self.path)
        for file in self.path.glob("*.json"):
            file.write_text(json.dumps(placed(json.loads(file.read_text()), self.places)))
        os.mkfifo(self.path / "wake", 0o600)
        for folder in ("in", "out"):
            (self.path / folder).mkdir(exist_ok=True)

    def start(self) -> None:
        """Start the supervisor of that version, as its worker did. The step waits until :meth:`let_end`."""
        self.put("local_running")
        os.mkfifo(self.go)
        self._go_fd = os.open(self.go, os.O_RDWR)  # so that neither side waits for the other
        program = self.forms.folder / "supervisor.pyz"
        subprocess.run([sys.executable, "-I", "-S", program, self.path], check=True, stdin=subprocess.DEVNULL)

    def let_end(self) -> None:
        assert self._go_fd is not None
        os.write(self._go_fd, b"forty-two\n")

    def end(self) -> None:
        if self._go_fd is not None:
            os.close(self._go_fd)
        if self.path.exists():
            kill_marked(f"STEPOP_NONCE={self.record['nonce']}")
            folder = JobFolder(self.path)
            wait_until(lambda: not folder.is_supervised(), "the supervisor to end")


@pytest.fixture
def local_job(forms: Forms, store: Path, places: Places) -> Iterator[StoredLocalJob]:
    if OWN != LINUX:
        pytest.skip("the stored job was made on Linux")
    # A job's processes are known by its nonce, which is the same in every run of these tests on this host
    with open(os.path.join(tempfile.gettempdir(), "stepop-stored-forms.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = StoredLocalJob(forms, places)
        yield job
        job.end()


@pytest.fixture
def request_of() -> Callable[[Any], StoredRequest]:
    return StoredRequest
