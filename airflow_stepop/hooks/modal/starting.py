"""Starts a sandbox with a GPU by the public interface, which waits up to 21 minutes for the machine.

Used only where the private door is closed: see ``private.start``. A process of its own calls
``Sandbox.create``. As soon as the sandbox is found by its name, this process is killed: a cancelled call
would end the sandbox, and a killed process leaves it alone. So no worker waits for a machine. The process
also ends with the worker, however that ends: nobody would know of a sandbox that it creates later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_stepop.exceptions import QuotaError

if TYPE_CHECKING:
    from airflow_stepop.connections.modal import ModalAccount

NAME_S = 60.0  # so long after its image is ready, a sandbox must be found by its name
BUILD_S = 1800.0
PAUSE_S = 0.5
READY, CREATED = "ready", "created "  # what the process writes: the image is there; the sandbox has a machine


def start_by_child(given: Mapping[str, Any], account: ModalAccount, find: Callable[[], str | None]) -> str:
    """Create the sandbox of a request, and return its id.

    :param given: ``request``, and ``own_secret`` with its secret variables
    :param find: returns the id of the sandbox by its name; ``None``: it is not there yet
    :raises QuotaError: no sandbox appears within a minute
    :raises Exception: the error of ``Sandbox.create``
    """
    command = [sys.executable, "-m", __name__]
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - this module, by this interpreter
        command, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            process.stdin.write(json.dumps({**given, "account": asdict(account)}) + "\n")
            process.stdin.flush()  # and it stays open: the process ends with it
            return _found(process, find)
        finally:
            _kill(process)


def _found(process: subprocess.Popen[str], find: Callable[[], str | None]) -> str:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    if process.stdout.readline().strip() == READY:
        end = time.monotonic() + NAME_S
        while time.monotonic() < end:
            if (sandbox_id := find()) is not None:
                return sandbox_id
            if process.poll() is not None:
                break
            time.sleep(PAUSE_S)
        else:
            _kill(process)
            raise QuotaError("Modal did not create the sandbox within a minute")
    text = process.stdout.read().strip()
    if text.startswith(CREATED):  # it may have ended meanwhile, and then no name leads to it
        return text.removeprefix(CREATED)
    if (sandbox_id := find()) is not None:
        return sandbox_id
    raise _error(text)


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)


def _error(text: str) -> Exception:
    """Return the error that the process has met, as a class of ``modal.exception`` if it is one."""
    from modal import exception

    try:
        name, message = json.loads(text)
    except ValueError:
        return QuotaError(f"the process that creates the sandbox ended without a word: {text[-300:]}")
    kind = getattr(exception, name, None)
    is_known = isinstance(kind, type) and issubclass(kind, exception.Error)
    return kind(message) if is_known else RuntimeError(f"{name}: {message}")  # type: ignore[misc]


def _main() -> None:
    from modal import Sandbox

    from airflow_stepop.connections.modal import ModalAccount, client_of
    from airflow_stepop.hooks.modal.objects import Objects, create_arguments

    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = given["request"]
    client = client_of(ModalAccount(**given["account"]))
    app = Objects(client, request["environment"]).app(request["app_name"])
    words, options = create_arguments(request, client, app, given["own_secret"])
    options["image"].build(app)
    print(READY, flush=True)
    print(f"{CREATED}{Sandbox.create(*words, **options).object_id}", flush=True)


def _end_with_parent() -> None:
    """Kill this process when the parent is gone: its end of the pipe is closed then."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        _main()
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
        sys.exit(1)
