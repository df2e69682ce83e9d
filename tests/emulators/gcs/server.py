"""The wire: HTTP/1.1 for all APIs of the emulator, at one address."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.emulators.gcs.errors import ApiError, LostAnswerError
from tests.emulators.gcs.json_apis import JsonApis
from tests.emulators.gcs.request import Answer, Request
from tests.emulators.gcs.world import World
from tests.emulators.gcs.xml_api import XmlApi, operation_of


class Server(ThreadingHTTPServer):
    """Serves one world, in a thread for each connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, world: World, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.world, self.xml, self.json = world, XmlApi(world), JsonApis(world)
        world.address = f"http://{host}:{self.server_address[1]}"
        world.accounts.audience = f"{world.address}/token"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.world.faults.clear()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet for one answer
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _any(self) -> None:
        length = self.headers.get("Content-Length")
        if length is None and self.command in ("PUT", "POST"):
            self.close_connection = True
            self._send(_refusal(ApiError(411, "MissingContentLength", "Length required."), is_json=False))
            return
        try:
            body = self._body(int(length or 0))
            answer = self._answer(Request(self.command, self.path, self.headers, body))
        except (LostAnswerError, ConnectionError):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answer)

    def _body(self, length: int) -> bytes:
        body = self.rfile.read(length)
        if len(body) < length:
            raise LostAnswerError  # the client has gone
        return body

    def _answer(self, request: Request) -> Answer:
        server, faults = self.server, self.server.world.faults
        in_json = server.json.operation_of(request)
        operation = in_json or operation_of(request)
        try:
            faults.strike(operation, after=False)
            answer = server.json.answer(request, in_json) if in_json else server.xml.answer(request)
            faults.strike(operation, after=True)
        except ApiError as error:
            return _refusal(error, is_json=in_json is not None, is_token=in_json == "token")
        return answer

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.body:
            self.send_header("Content-Type", answer.content_type)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - the names of http.server


def _refusal(error: ApiError, *, is_json: bool, is_token: bool = False) -> Answer:
    if is_token:
        body = json.dumps({"error": error.code, "error_description": error.message}).encode()
    else:
        body = error.as_json() if is_json else error.as_xml()
    kind = "application/json; charset=UTF-8" if is_json else "application/xml; charset=UTF-8"
    return Answer(error.status, body, {}, kind)
