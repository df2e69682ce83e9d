"""A Kubernetes API server that gives one answer, for answers that a real server gives too seldom."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ApiServer(ThreadingHTTPServer):
    """Answers each request with ``status`` and ``answer``. A request with a wrong token gets a 401.

    ``answer_to_post`` replaces status and answer for POST requests. ``asked`` counts the answers by status.
    """

    daemon_threads = True
    status, answer, token = 200, {"major": "1"}, "first"
    answer_to_post = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._say(self.server.status, self.server.answer)

    def do_POST(self):
        self._say(*(self.server.answer_to_post or (self.server.status, self.server.answer)))

    def _say(self, status, answer):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            status, answer = 401, {"message": "who?"}
        self.server.asked[status] += 1
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
