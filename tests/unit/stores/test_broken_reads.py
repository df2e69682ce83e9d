"""Reads from a bucket whose connection breaks during the answer. The S3 server is a small one of the test."""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_stepop.stores import obstore_calls
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store

DATA = random.Random(11).randbytes(300_000)
_number = itertools.count()
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the close of the socket resets the connection


class BreakingServer(ThreadingHTTPServer):
    """Serves one object. The next ``breaks`` answers end after half of their bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.is_reset = 0, False
        self.ranges: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # lets a client keep the connection and use it again
    server: BreakingServer

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        first, last = (int(number) for number in re.findall(r"\d+", asked))
        body = DATA[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(DATA)}")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
        self.end_headers()
        if self.server.breaks == 0:
            self.wfile.write(body)
            return
        self.server.breaks -= 1
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True
        if self.server.is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[BreakingServer]:
    with BreakingServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def store(server: BreakingServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A bucket on this server. Each test has its own connection, since open stores are cached."""
    conn_id = f"breaking_{next(_number)}"
    extra = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "a-key", "password": "a-secret", "extra": extra}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    return open_store(f"s3://{conn_id}@steps/x")


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_bytes_that_break_off_in_the_middle_are_read_again(
    server: BreakingServer, store: Store, is_reset: bool
) -> None:
    server.breaks, server.is_reset = 2, is_reset
    assert store.read("object", len(DATA)) == DATA
    assert server.breaks == 0
    assert len(server.ranges) == 3, server.ranges


def test_a_connection_that_is_not_ready_while_the_bytes_come_is_tried_again(
    server: BreakingServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an answer breaks, obstore asks for the rest. It gives up if the connection closes at that moment.

    No server can time this case, so the test raises the error in the first answer that obstore returns.
    """
    import obstore

    errors = [OSError("hyper::Error(Canceled, connection was not ready)")]
    get = obstore.get

    class Answer:
        def __init__(self, found: obstore.GetResult) -> None:
            self.meta, self._found = found.meta, found

        def bytes(self) -> obstore.Bytes:
            if errors:
                raise errors.pop()
            return self._found.bytes()

    monkeypatch.setattr(obstore, "get", lambda *args, **options: Answer(get(*args, **options)))
    monkeypatch.setattr(obstore_calls, "_FIRST_PAUSE_S", 0.001)
    assert store.read("object", len(DATA)) == DATA
    assert errors == []
    assert len(server.ranges) == 2
