"""A proxy for an API server. A test can make it answer with errors or hang up."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RESET = "reset"


class Proxy(ThreadingHTTPServer):
    """Forwards HTTP requests from its own port to ``url``.

    :param url: ``https://host:port``
    :param authorities: path of the certificates that verify the server
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, url: str, authorities: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(url)
        self.context = ssl.create_default_context(cafile=authorities)
        self.trouble: int | str | None = None  # a status, or RESET
        self.answers: Counter[object] = Counter()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Ignore a client that goes away."""

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble = self.server.trouble
        self.server.answers[trouble] += 1
        if trouble == RESET:
            self._hang_up()
        elif trouble is not None:
            self._refuse(trouble)
        else:
            target = self.server.target
            far = http.client.HTTPSConnection(
                target.hostname, target.port, context=self.server.context, timeout=60
            )
            try:
                self._forward(far, body)
            finally:
                far.close()

    do_GET = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815 - as the base class calls them

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
        self.connection.close()

    def _refuse(self, status):
        body = json.dumps({"kind": "Status", "code": status, "message": "the proxy says so"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, far, body):
        kept = {"authorization", "content-type", "accept", "user-agent"}
        headers = {name: text for name, text in self.headers.items() if name.lower() in kept}
        far.request(self.command, self.path, body or None, headers)
        answer = far.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while data := answer.read1(65536):
            if self.server.trouble == RESET:
                self._hang_up()
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass
