"""Steps that fail in the ways of a ``@task``, with callbacks that look at the exception."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

from airflow.sdk import DAG, task

DEEP = 3


class ApiError(Exception):
    """Keeps more than its arguments."""

    status = 500

    def __init__(self, message, *, status, body=b""):
        super().__init__(message)
        self.status = status
        self.body = body


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to be changed: Python cannot set its traceback."""

    code: int


def deep(number):
    if number == 0:
        raise ApiError("unavailable", status=503, body=b"\x00\xff")
    deep(number - 1)


def seen(context):
    """Write what a callback finds in the exception."""
    error = context["exception"]
    fields = ("filename", "errno", "object", "start", "lineno", "status", "body", "name", "args")
    found = {name: repr(getattr(error, name)) for name in fields if hasattr(error, name)}
    place = Path(os.environ["STEPOP_TEST_MARKS"]) / f"raises-{context['ti'].task_id}.json"
    place.write_text(json.dumps({"type": type(error).__name__, "text": str(error), **found}))


with DAG("raises", schedule=None, default_args={"on_failure_callback": seen}):

    @task.remote_step
    def missing_file():
        open("/no/such/file")  # noqa: SIM115

    @task.remote_step
    def bad_text():
        b"ab\xff".decode()

    @task.remote_step
    def bad_syntax():
        compile("a b", "x.py", "exec")

    @task.remote_step
    def own():
        print("before the error")
        deep(DEEP)

    @task.remote_step(deferrable=True)
    def own_deferred():
        deep(DEEP)

    @task.remote_step
    def chained():
        try:
            deep(DEEP)
        except ApiError as error:
            raise KeyError("wrapped") from error

    @task.remote_step
    def local():
        class HereError(Exception):
            pass

        raise HereError("only in the step")

    @task.remote_step
    def frozen():
        raise FrozenError(7)

    @task.remote_step
    def exits_true():
        print("one try", flush=True)
        sys.exit(True)

    @task.remote_step
    def exits_not_ok():
        sys.exit(not "ok")

    @task.remote_step
    def leaves_a_thread():
        threading.Thread(target=threading.Event().wait, name="pump").start()
        return "the value"

    @task.remote_step
    def closes_stdout():
        sys.stdout.close()
        return "closed"

    steps = (
        missing_file,
        bad_text,
        bad_syntax,
        own,
        own_deferred,
        chained,
        local,
        exits_true,
        exits_not_ok,
        frozen,
    )
    for step in (*steps, leaves_a_thread, closes_stdout):
        step()
