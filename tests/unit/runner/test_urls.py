"""Addresses that lead elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from airflow_stepop.runner import urls


class Server(ThreadingHTTPServer):
    """Sends ``/away`` to the address in ``target``, and answers all else with ``found``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.asked = "", []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        is_away = self.path.startswith("/away")
        self.send_response(307 if is_away else 200)
        if is_away:
            self.send_header("Location", self.server.target)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"found")

    do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """Yield the store, and a server elsewhere."""
    both = Server(), Server()
    for server in both:
        Thread(target=server.serve_forever, daemon=True).start()
    yield both
    for server in both:
        server.shutdown()
        server.server_close()


def test_a_redirect_to_another_host_is_refused(servers, tmp_path):
    """Whoever answers for the store must not make the step read from, or write to, another place."""
    store, other = servers
    store.target = f"{other.address}/there?secret"
    address = f"{store.address}/away?signature=abc"
    text = (
        f"the store redirects from {store.address} to {other.address}, which is refused. If the bucket is in "
        f"another region, write the bucket's region into the connection for {store.address}/away"
    )
    calls = [
        lambda: urls.get(address, 0, memoryview(bytearray(5)), "a"),
        lambda: urls.check_size(address, 5, "a"),
        lambda: urls.fetch(address, str(tmp_path / "file")),
        lambda: urls.read(address, 60.0),
        lambda: urls.put(address, lambda: [b"value"], 5, {}),
        lambda: urls.put_once(address, b"value", {}, [412], 60.0),
        lambda: urls.replace(address, lambda: [b"value"], 5, {}, 60.0),
    ]
    for call in calls:
        with pytest.raises(OSError, match=re.escape(text) + "$"):
            call()
    assert len(store.asked) == len(calls), "it is not tried again"
    assert other.asked == []


def test_a_redirect_on_the_same_host_is_followed(servers):
    store, _ = servers
    store.target = "/there"
    assert urls.read(f"{store.address}/away", 60.0) == b"found"


def test_another_scheme_is_another_host(servers):
    """The address of a store is signed for https, and shows what it carries to nobody on the way."""
    store, _ = servers
    store.target = store.address.replace("http:", "ftp:") + "/there"
    with pytest.raises(OSError, match="to ftp://"):
        urls.read(f"{store.address}/away", 60.0)
