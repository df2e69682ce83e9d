"""An S3 server behind the evaluation of IAM policies, for tests of what a caller must be allowed to do.

S3 answers 403 instead of 404 to the read of an object that is not there, if the caller must not list the
bucket: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
"""

from __future__ import annotations

import http.client
import re
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.emulators.sagemaker.iam import ALL, Policy, decision

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
Refused = tuple[int, str, str]  # HTTP status, code, message


class S3Gate(ThreadingHTTPServer):
    """Forwards requests to an S3 server. Denies those that ``policies`` do not allow."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, endpoint: str, who: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(endpoint)
        self.who = who
        self.policies: list[Policy] = [ALL]
        self.asked: set[str] = set()  # actions that were needed
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def allows(self, action: str, resource: str, context: dict[str, Any]) -> bool:
        self.asked.add(action)
        return decision(self.policies, action, resource, context) == "allowed"

    def credentials_of(self, headers: Message) -> Refused | None:
        """Return why a request is refused before its permission is checked; ``None``: it is not."""
        return None

    def signed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers for the server behind."""
        return headers

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Gate

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._is_refused(body):
            return
        far = http.client.HTTPConnection(self.server.target.netloc, timeout=60)
        headers = self.server.signed(self.command, self.path, body, dict(self.headers))
        far.request(self.command, self.path, body, headers)
        answer = far.getresponse()
        data = answer.read()
        far.close()
        if answer.status == 404 and self.command in ("GET", "HEAD"):
            bucket, _ = split(self.path)
            if not self.server.allows("s3:ListBucket", f"arn:aws:s3:::{bucket}", {}):
                self._deny("s3:ListBucket", f"arn:aws:s3:::{bucket}")
                return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _is_refused(self, body: bytes) -> bool:
        """Answer a request that its sender may not send, and return whether that is so."""
        refused = self.server.credentials_of(self.headers)
        if refused:
            self._refuse(*refused)
            return True
        for action, resource, context in needed(self.command, self.path, body):
            if not self.server.allows(action, resource, context):
                self._deny(action, resource)
                return True
        return False

    def _deny(self, action: str, resource: str) -> None:
        text = f"User: {self.server.who} is not authorized to perform: {action} on resource: {resource}"
        text += f" because no identity-based policy allows the {action} action"
        self._refuse(403, "AccessDenied", text)

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = ERROR.format(code=code, message=message).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - the names of http.server


def split(path: str) -> tuple[str, str]:
    """Return the bucket and the key of an address in path style."""
    bucket, _, key = unquote(urlsplit(path).path).lstrip("/").partition("/")
    return bucket, key


def needed(method: str, path: str, body: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what a request needs: action, resource and the keys for conditions.

    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
    """
    bucket, key = split(path)
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    arn = f"arn:aws:s3:::{bucket}"
    if "delete" in query:
        keys = re.findall("<Key>(.*?)</Key>", body.decode())
        return [("s3:DeleteObject", f"{arn}/{one}", {}) for one in keys]
    if not key and "location" in query:
        return [("s3:GetBucketLocation", arn, {})]
    if not key:
        prefix = query.get("prefix")
        return [("s3:ListBucket", arn, {"s3:prefix": prefix[0]} if prefix else {})]
    actions = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}
    action = actions.get(method, "PutObject")
    if method == "DELETE" and "uploadId" in query:
        action = "AbortMultipartUpload"
    return [(f"s3:{action}", f"{arn}/{key}", {})]
