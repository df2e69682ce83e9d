"""Servers that answer with stored objects: a Kubernetes API, and SageMaker with its logs.

They know no rules of the services. What a service really does is tested with a cluster and with the emulator.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
Answer = tuple[int, Any]


@contextmanager
def serving(answer: Callable[[str, str, Mapping[str, str], bytes], Answer]) -> Iterator[str]:
    """Start a server, and yield its address.

    :param answer: is called with method, path, headers and body; returns the status and the JSON to answer
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, found = answer(self.command, self.path, self.headers, body)
            data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            self.answer()

        def do_DELETE(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class StoredCluster:
    """Objects of one namespace. ``objects`` has them by the last two parts of their path: ``jobs/name``."""

    def __init__(self, objects: Mapping[str, Json] | None = None) -> None:
        self.objects = dict(objects or {})
        self.deleted: list[str] = []

    def answer(self, method: str, path: str, _: Mapping[str, str], body: bytes) -> Answer:
        words = urlsplit(path).path.partition("/v1/")[2].split("/")
        kind, *rest = words[2:] if words[0] == "namespaces" else words
        name = "/".join(rest)
        if not name and method == "GET":
            items = [one for key, one in self.objects.items() if key.startswith(f"{kind}/")]
            return 200, {"metadata": {"resourceVersion": "1"}, "items": items}
        given = json.loads(body) if body else {}
        key = f"{kind}/{name or given['metadata']['name']}"
        if method == "POST":
            self.objects[key] = _created(given)
        if name.endswith("/log"):
            return 200, ""
        if key not in self.objects:
            return 404, {"message": f"{key} not found", "reason": "NotFound"}
        if method == "PATCH":
            self.objects[key] = _merged(self.objects[key], given)
        if method == "DELETE":
            self.deleted.append(key)
            return 200, self.objects.pop(key)
        return 200, self.objects[key]


def _created(given: Json) -> Json:
    own = {"uid": "5f0c9c0e-0000-4000-8000-000000000001", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**given, "metadata": {**given["metadata"], **own, "namespace": "default"}}


def _merged(under: Any, over: Any) -> Any:
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{name: _merged(under.get(name), one) for name, one in over.items()}}


class StoredTrainingJob:
    """One training job, its tags and its log.

    :param job: the answer of DescribeTrainingJob; times are seconds since the epoch
    :param tags: the answer of ListTags
    :param lines: of its log
    """

    def __init__(self, job: Json, tags: Json, lines: list[str]) -> None:
        self.job, self.tags, self.lines = job, tags, lines
        self.asked: list[str] = []

    def answer(self, _: str, __: str, headers: Mapping[str, str], body: bytes) -> Answer:
        operation = headers["X-Amz-Target"].partition(".")[2]
        self.asked.append(operation)
        name = self.job["TrainingJobName"]
        time_ms = int(self.job["CreationTime"] * 1000)
        stream = f"{name}/algo-1-{time_ms}"
        if operation == "AddTags":
            self.tags["Tags"] += json.loads(body)["Tags"]
        events = [{"logStreamName": stream, "timestamp": time_ms, "message": one} for one in self.lines]
        events = [{**one, "eventId": f"{at:056}"} for at, one in enumerate(events)]
        asked = json.loads(body)
        is_asked_for = asked.get("startTime", 0) <= time_ms <= asked.get("endTime", time_ms)
        streams = [{"logStreamName": stream, "creationTime": time_ms}]
        return 200, {
            "DescribeTrainingJob": self.job,
            "ListTrainingJobs": {"TrainingJobSummaries": [self.job]},
            "ListTags": self.tags,
            "StopTrainingJob": {},
            "AddTags": {},
            "DescribeLogStreams": {"logStreams": streams},
            "FilterLogEvents": {"events": events if is_asked_for else []},
        }[operation]


def cluster_connection(url: str) -> str:
    """Return an Airflow connection to a stored cluster, as the value of an environment variable."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stored", "cluster": {"server": url}}],
        "users": [{"name": "stored", "user": {"token": "stored"}}],
        "contexts": [{"name": "stored", "context": {"cluster": "stored", "user": "stored"}}],
        "current-context": "stored",
    }
    return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": config}})


def sagemaker_connection(url: str) -> str:
    services = {name: {"endpoint_url": url} for name in ("sagemaker", "logs", "sts")}
    extra = {"region_name": "us-east-1", "service_config": services}
    return json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra})
