"""Creating a job once, at an HTTP service that loses requests and answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_stepop.hooks.base import ApiError, Trouble, create_once
from tests.support.waiting import PATIENCE_S

KINDS = {409: Trouble.CONFLICT, 429: Trouble.TRANSIENT, 500: Trouble.TRANSIENT, 402: Trouble.QUOTA,
         400: Trouble.INVALID}  # fmt: skip


class RefusedError(Exception):
    """The service has answered with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code


def classify(error: Exception) -> ApiError:
    if isinstance(error, OSError | http.client.HTTPException):
        return ApiError(Trouble.TRANSIENT, str(error))
    return ApiError(KINDS.get(getattr(error, "code", 0), Trouble.OTHER), str(error))


class Service:
    """Jobs by name. ``plan`` has one word for each coming create: what goes wrong with it."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.plan: list[str] = []
        self.creates = 0
        self.hidden = 0  # so many coming reads do not show a job yet
        self.lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = service.create(body["name"], body["owner"])
                if code:
                    self.answer(code, body["owner"])
                else:
                    self.close_connection = True  # without an answer

            def do_GET(self) -> None:
                with service.lock:
                    service.hidden -= 1
                    owner = service.jobs.get(self.path[1:]) if service.hidden < 0 else None
                self.answer(200 if owner else 404, owner)

            def answer(self, code: int, owner: str | None) -> None:
                data = json.dumps(owner).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def create(self, name: str, owner: str) -> int:
        with self.lock:
            self.creates += 1
            trouble = self.plan.pop(0) if self.plan else ""
            if trouble.isdigit():
                return int(trouble)
            if trouble == "request lost":
                return 0
            if name in self.jobs:
                return 409
            self.jobs[name] = owner
            return {"answer lost": 0, "created, then 500": 500}.get(trouble, 200)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(*self.server.server_address, timeout=PATIENCE_S)
        try:
            connection.request(method, path, json.dumps(body) if body else None)
            answer = connection.getresponse()
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise RefusedError(answer.status)
            return json.loads(answer.read())
        finally:
            connection.close()

    def submit(self, owner: str = "me", **options: float) -> str:
        return create_once(
            lambda: self._ask("GET", "/s-x"),
            lambda: self._ask("POST", "/", {"name": "s-x", "owner": owner}),
            classify,
            **options,
        )


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.mark.parametrize("trouble", ["", "answer lost", "created, then 500"])
def test_a_job_is_created_once(service, trouble):
    service.plan = [trouble]
    assert service.submit() == "me"
    assert service.creates == 1
    assert service.submit() == "me", "a later call finds it"


@pytest.mark.parametrize(("trouble", "error"), [("request lost", OSError | http.client.HTTPException),
                                                ("429", RefusedError), ("500", RefusedError)])  # fmt: skip
def test_an_unclear_answer_is_never_followed_by_a_blind_create(service, trouble, error):
    """No job is found: the error is raised, and the caller decides when to call again."""
    service.plan = [trouble]
    with pytest.raises(error if isinstance(error, type) else error.__args__):
        service.submit()
    assert (service.creates, service.jobs) == (1, {})
    assert service.submit() == "me"


def test_the_job_of_another_submit_is_found(service):
    """Another worker has submitted this step in the meantime."""
    service.jobs["s-x"] = "me, earlier"
    assert service.submit() == "me, earlier"


@pytest.mark.parametrize("trouble", ["402", "400", "403"])
def test_a_clear_answer_needs_no_second_request(service, trouble):
    service.plan = [trouble]
    service.hidden = 0
    with pytest.raises(RefusedError, match=trouble):
        service.submit()
    assert service.hidden == 0, "nothing was read"


@pytest.mark.parametrize("trouble", ["answer lost", "409"])
def test_a_new_job_may_be_missing_in_the_list_for_some_time(service, trouble):
    if trouble == "409":
        service.jobs["s-x"] = "me"
    service.plan, service.hidden = [trouble], 4
    assert service.submit(lag_s=PATIENCE_S) == "me"
    assert service.creates == 1


def test_a_taken_name_is_waited_for(service):
    """The service says that there is a job. After an unclear answer the caller creates again instead."""
    service.jobs["s-x"] = "me"
    service.plan, service.hidden = ["409"], 4
    assert service.submit(taken_lag_s=PATIENCE_S) == "me"
    assert service.creates == 1
    service.jobs.clear()
    service.plan, service.hidden = ["answer lost"], 4
    with pytest.raises((http.client.HTTPException, OSError)):
        service.submit(taken_lag_s=PATIENCE_S)
    assert service.hidden == 3, "one look"


def test_a_name_that_is_taken_by_nothing_that_is_found(service):
    """The job was deleted between both requests, for example."""
    service.plan = ["409"]
    with pytest.raises(RefusedError, match="409"):
        service.submit()


def test_an_error_of_the_second_request_is_raised(service):
    def find():
        raise RefusedError(500)

    def create():
        raise ConnectionResetError

    with pytest.raises(RefusedError) as raised:
        create_once(find, create, classify)
    assert isinstance(raised.value.__context__, ConnectionResetError)


def test_many_workers_submit_the_same_step(service):
    """All of them get the same job, whatever is lost."""
    service.plan = ["answer lost", "", "", "created, then 500"]
    start, found = threading.Barrier(8), []

    def submit(owner: str) -> None:
        start.wait(PATIENCE_S)
        found.append(service.submit(owner))

    threads = [threading.Thread(target=submit, args=[f"worker {number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(found) == 8
    assert {*found} == {*service.jobs.values()}
    assert len(service.jobs) == 1
