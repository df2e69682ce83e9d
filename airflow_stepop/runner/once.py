"""The start-once guard: of all jobs that a service starts for one submit, only one runs the step.

A service may start a step again by itself, or may create two jobs for one request. The guard is a marker
named ``started``, which can be created only once. It holds the service's own id of the job that created it.
The runner asks the guard before it removes or writes anything else. The marker is a file of the folder
``--started DIR``; or it is an object, and its pre-signed URLs are in ``started.json`` of the input folder
(``--started started.json``).

- No marker: the runner creates the marker and runs the step.
- The marker has this job, and an outcome exists: the runner ends with the exit code of the outcome. It prints
  no receipt, because it has not written these bytes. With ``--kept`` the outcome may come from beside the
  marker: see :mod:`.kept`.
- The marker has this job, and no outcome exists: the runner runs the step as the next attempt. With
  ``--restarts 0`` it runs nothing and ends with ``EXIT_REFUSED``.
- The marker has another job: the runner runs nothing and ends with ``EXIT_DUPLICATE``.
- The guard gives no answer after several tries: the runner runs nothing, and its receipt says ``infra``.

An outcome that says that a signal stopped the attempt is not an end: a service stops and restarts a job when
it takes the machine away.

Imported only by jobs with a guard. Used by :mod:`.main`.
"""

from __future__ import annotations

import json
import os
import time

from . import protocol
from .failures import StepError
from .files import quietly, read_table, report
from .outcome import empty_outcome
from .receipt import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    from .wire import Started

    Place = Union["_Folder", "_Addresses"]

# a marker that is being written is looked at again for so many seconds
LIMIT_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
# transient errors of a pre-signed URL are retried for so many seconds
RETRY_LIMIT_S = 120.0
CREATE_ONLY = {"If-None-Match": "*"}
# Statuses of a create-only PUT when the object exists (RFC 9110, 13.1.2; Azure: BlobAlreadyExists), or when
# another request creates it at the same time (S3: ConditionalRequestConflict)
EXISTS = (409, 412)


def refusal(options: dict[str, str]) -> int | None:
    """Ask the guard; return the exit code of the runner if it must not run the step, else ``None``.

    If the step runs, ``STEPOP_ATTEMPT`` in the environment is the number of this attempt, from 1 on.

    :param options: those of the runner: ``started``, ``job-id``, ``restarts``
    """
    nonce = os.environ.get(protocol.ENV_NONCE, "")
    try:
        job = _job_id(options.get("job-id", ""), nonce)
        winner, attempt = _claim(_place(options), job, nonce)
    except (StepError, OSError, ValueError) as error:
        code = _earlier(options, nonce)
        return code if code is not None else _unknown(options, nonce, error)
    if winner != job:
        text = f"The job {winner} runs this step. This job, {job}, is a duplicate: it ran nothing"
        _say(options, text)
        return protocol.EXIT_DUPLICATE
    code = _earlier(options, nonce)
    if code is None and attempt > 1 and options.get("restarts") == "0":
        text = f"The service started the job {job} again, and the step is not repeated: it ran nothing"
        _say(options, text)
        return protocol.EXIT_REFUSED
    if code is None:
        if "sync" in options:  # others see the marker only then
            from .synced import sync

            sync(options["sync"])
        os.environ[protocol.ENV_ATTEMPT] = str(attempt)
        if attempt > 1:
            report(f"this is attempt {attempt} of the job {job}")
    return code


def _say(options: dict[str, str], text: str) -> None:
    report(text)
    if "failure" in options:
        from .reason import write_reason

        write_reason(options["failure"], {"category": "infra", "summary": text})


def _job_id(text: str, nonce: str) -> str:
    """Return the service's own id of this job. ``env:NAME`` is the value of a variable.

    :raises StepError: there is no id, or no nonce
    """
    if not nonce:
        raise StepError("infra", f"The start-once guard needs {protocol.ENV_NONCE}, and it is not set")
    job = os.environ.get(text[4:], "") if text.startswith("env:") else text
    if not job:
        raise StepError("infra", f"The start-once guard needs the id of the job: --job-id {text} is empty")
    return job


def _earlier(options: dict[str, str], nonce: str) -> int | None:
    """Return the exit code of an earlier attempt that has ended; ``None`` if there is no such attempt."""
    code = _in_output(options, nonce)
    if code is None and nonce and "kept" in options:
        from .kept import restore

        code = restore(options, nonce)
    return code


def _in_output(options: dict[str, str], nonce: str) -> int | None:
    """Return the exit code of the attempt whose outcome is in the output folder."""
    try:
        with open(os.path.join(options["out"], protocol.OUTCOME), "rb") as stream:
            found = json.load(stream)
        if not nonce or found["nonce"] != nonce:
            return None
        status, failure = found["status"], found["failure"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is no outcome, or a killed attempt left a torn one
    if failure.get("category") == "cancelled":
        return None
    report(f"an earlier attempt of this job has ended with {status}; this attempt ran nothing")
    return protocol.EXIT_OK if status == "success" else protocol.EXIT_STEP_FAILED


def _unknown(options: dict[str, str], nonce: str, error: Exception) -> int:
    """End a job whose guard gave no answer. Another job may run, so its ``outcome.json`` is not touched."""
    found = error if isinstance(error, StepError) else None
    why = found or StepError(
        "infra",
        f"The step was not started: the start-once guard cannot be asked: {error}",
        "the runner must be able to create and read the marker 'started' at the place of --started",
    )
    report(why.summary)
    outcome = {**empty_outcome(os.environ.get(protocol.ENV_JOB, ""), nonce), "failure": why.to_json()}
    finish(options, (json.dumps(outcome).encode(), False))
    return protocol.EXIT_REFUSED


# -- the marker ----------------------------------------------------------------------------------------------


def _claim(place: Place, job: str, nonce: str) -> tuple[str, int]:
    """Create the marker if there is none; return the job that it names, and the number of this attempt.

    :raises OSError: the marker cannot be created or read
    :raises ValueError: the marker is damaged, or it belongs to another submit
    """
    own = {"job": job, "nonce": nonce, "attempt": 1, "run": os.urandom(8).hex()}
    end, pause_s = time.monotonic() + LIMIT_S, FIRST_PAUSE_S
    while True:
        place.create(json.dumps(own).encode())
        try:
            found = _marker(place.read(), nonce)
            break
        except ValueError:
            if time.monotonic() + pause_s > end:
                raise
        time.sleep(pause_s)  # another job may be writing the marker
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    # The answer to the creation may have been lost, so only the content says who has created the marker
    if found["run"] == own["run"] or found["job"] != job:
        return found["job"], 1
    return job, place.count(found)


def _marker(data: bytes | None, nonce: str) -> dict[str, Any]:
    found = json.loads(data or b"null")
    kinds = {"job": str, "run": str, "attempt": int}
    if not isinstance(found, dict) or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        raise ValueError(f"the marker {protocol.STARTED} is damaged")
    if found.get("nonce") != nonce:
        raise ValueError(f"the marker {protocol.STARTED} belongs to another submit")
    return found


def _place(options: dict[str, str]) -> Place:
    if options["started"] != protocol.STARTED_TABLE:
        return _Folder(options["started"])
    table: Any = read_table(options, protocol.STARTED_TABLE)
    if not table:
        raise StepError("infra", f"The step was not started: {protocol.STARTED_TABLE} did not arrive")
    return _Addresses(table)


class _Folder:
    """A marker that is a file. The first attempt is ``started``, the others are ``started.2`` and so on."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, protocol.STARTED)

    def create(self, data: bytes) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        _create(self.path, data)

    def read(self) -> bytes | None:
        with open(self.path, "rb") as stream:
            return stream.read()

    def count(self, found: dict[str, Any]) -> int:
        # The marker is never written again: a kill in between would lose the id
        attempt = 2
        while not _create(f"{self.path}.{attempt}", json.dumps(found).encode()):
            attempt += 1
        return attempt


def _create(path: str, data: bytes) -> bool:
    """Create a file in one write; return whether there was none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, data)
        quietly(os.fsync, descriptor)
    finally:
        os.close(descriptor)
    return True


class _Addresses:
    """A marker that is an object behind pre-signed URLs."""

    def __init__(self, table: Started) -> None:
        self.table = table
        self.headers = table.get("headers", {})

    def create(self, data: bytes) -> None:
        from .urls import put_once

        headers = {**self.headers, **self.table.get("create_only", CREATE_ONLY)}
        put_once(self.table["put"], data, headers, EXISTS, RETRY_LIMIT_S)

    def read(self) -> bytes | None:
        from .urls import read

        return read(self.table["get"], RETRY_LIMIT_S)

    def count(self, found: dict[str, Any]) -> int:
        from .urls import replace

        attempt = int(found["attempt"]) + 1
        data = json.dumps({**found, "attempt": attempt}).encode()
        try:
            replace(self.table["put"], lambda: iter((data,)), len(data), self.headers, RETRY_LIMIT_S)
        except OSError as error:  # a signature may allow a creation only
            report(f"the attempts of the job are not counted: {error}")
        return attempt
