"""A bucket of each kind, a gate before its server that a test can shut, and steps with the bucket."""

from __future__ import annotations

import itertools
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.job import StepSpec
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import spill
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.paths import result_path
from tests.support.line import Line
from tests.support.needs import needs
from tests.support.waiting import wait_until

_number = itertools.count()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def bucket(bucket_server, monkeypatch):
    """A store in a bucket. It is the only configured store."""
    store = open_store(address := bucket_server.new_address())
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    yield store
    store.delete_folder("")


@pytest.fixture
def connect(bucket_server, monkeypatch):
    """Return a function that creates a store on the same server, with a connection of its own."""

    def make(extra: dict[str, Any] | None = None, **changes: Any) -> Any:
        conn_id = f"stepop_tests_{next(_number)}"
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", bucket_server.connection(extra, **changes))
        address = bucket_server.new_address().replace(bucket_server.conn_id, conn_id)
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        return open_store(address)

    return make


class Gate(Line):
    """A line to a server. When it is shut, it closes every connection, or holds all bytes back."""

    def __init__(self, url: str) -> None:
        self._is_shut = False
        self.passed_bytes = 0
        self._stop_at: int | None = None
        self.stopped = threading.Event()
        self.was_shut = threading.Event()
        super().__init__(url)

    def shut(self) -> None:
        """Break open connections, and close new ones at once."""
        self._is_shut = True
        self.break_all()
        self.was_shut.set()

    def open(self) -> None:
        """Let all connections and bytes pass again."""
        self._is_shut, self._stop_at = False, None

    def stop_after(self, count: int) -> None:
        """Hold all bytes back after the next ``count`` bytes. Connections stay open."""
        self._stop_at = self.passed_bytes + count

    def shut_after(self, count: int, for_s: float) -> None:
        """Shut the gate after the next ``count`` bytes, and open it after ``for_s`` seconds."""

        def watch() -> None:
            end = self.passed_bytes + count
            while self.passed_bytes < end:
                time.sleep(0.002)
            self.shut()
            time.sleep(for_s)
            self._is_shut = False

        threading.Thread(target=watch, daemon=True).start()

    def _connect(self) -> socket.socket:
        if self._is_shut:
            raise ConnectionRefusedError
        return super()._connect()

    def _send(self, target: socket.socket, data: bytes) -> None:
        while self._stop_at is not None and self.passed_bytes >= self._stop_at and not self._is_shut:
            self.stopped.set()
            time.sleep(0.01)
        super()._send(target, data)
        self.passed_bytes += len(data)


@pytest.fixture
def gate(bucket_server) -> Iterator[Gate]:
    gate = Gate(bucket_server.endpoint)
    yield gate
    gate.open()
    gate.cut()


class Steps:
    """Runs steps on this host. Their arguments and results go through the store."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.hook = LocalStepHook(folder=folder)
        self.nonce = secrets.token_hex(8)  # the name of the folder for temporary files contains it
        self.failure: dict[str, Any] | None = None

    def prepare(self, store: Any, function: Any, *args: Any, **changes: Any) -> tuple[StepSpec, Any]:
        """Return the spec and the payload of a step. Large parts of the payload are in the store."""
        job = f"s-{next(_number)}"
        call = FunctionCall(
            function=function, args=args, kwargs={}, main_module=function.__module__, reference=None
        )
        payload = build_payload(
            call, job=job, nonce=self.nonce, split=changes.pop("split", "no"), is_result_wanted=True
        )
        payload = spill(payload, lambda: store, 20_000)
        uri = store.uri(result_path({"dag_id": "d"}, job))
        return replace(StepSpec(job, self.nonce, {}, payload.digest, result_uri=uri), **changes), payload

    def place(self, spec: StepSpec, files: Any) -> None:
        """Create the folder of a job with these input files, as a submit leaves it that died half-way."""
        JobFolder(self.folder / spec.name).create(self.hook.render(spec), files)

    def finish(self, spec: StepSpec, payload: Any) -> Any:
        """Run a step, and return the value that its task would return."""
        handle = self.hook.submit(spec, payload)
        wait_until(
            lambda: self.hook.status([handle])[handle].state,
            f"{spec.name} to end",
            holds=lambda state: state.is_terminal,
            explain=lambda: self.log(spec),
            pause_s=0.05,
        )
        found = read_outcome(self.hook.outcome(handle), spec.name, self.nonce)
        self.failure = found.get("failure")
        return None if self.failure else to_xcom(found["result"])

    def run(self, store: Any, function: Any, *args: Any, **changes: Any) -> Any:
        result = self.finish(*self.prepare(store, function, *args, **changes))
        assert self.failure is None, self.failure
        return result

    def log(self, spec: StepSpec) -> str:
        handle = self.hook.lookup(spec)
        chunk = self.hook.logs({handle: None}).get(handle)
        return "\n".join(line.text for line in chunk.lines) if chunk else ""


@pytest.fixture
def steps(tmp_path) -> Steps:
    return Steps(tmp_path / "jobs")


@pytest.fixture
def provider():
    """Require the Amazon provider. The dependency group ``test`` has it."""
    needs(find_spec("airflow.providers.amazon"), "the Amazon provider: pip install -e '.[s3]'")


STS = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>{end}</Expiration></Credentials></AssumeRoleResult>
<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></AssumeRoleResponse>"""


@pytest.fixture
def sts(s3_server):
    """A security token service. Everyone who assumes a role gets the keys of the S3 server."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append({name: values[0] for name, values in body.items()})
            end = datetime.now(UTC) + timedelta(seconds=int(asked[-1].get("DurationSeconds", 3600)))
            answer = STS.format(key=s3_server.key, secret=s3_server.secret, end=f"{end:%Y-%m-%dT%H:%M:%SZ}")
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url, server.asked = f"http://127.0.0.1:{server.server_port}", asked
        yield server
        server.shutdown()


@pytest.fixture
def assumed(connect, sts, provider):
    def make(**options):
        return connect(
            {
                "role_arn": "arn:aws:iam::1:role/stepop",
                "service_config": {"sts": {"endpoint_url": sts.url}},
                "assume_role_kwargs": options,
            }
        )

    return make
