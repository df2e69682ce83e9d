"""The process that starts and watches one local job; the job's folder runs this file by its path.

``python -I -S supervisor/main.py JOB_FOLDER`` returns as soon as the job is supervised, by this call or by an
earlier one. The supervisor itself goes on in the background and needs neither Airflow nor its caller. Whoever
holds ``lock`` and is the first to write ``state.json`` starts the step: so it starts at most once, however
often this is called.

Standard library only, beside its neighbours that hold to the same: it must start fast.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable

if __name__ == "__main__":  # -I and -S leave only the standard library; our own package comes last
    sys.path.append(os.path.abspath(os.path.join(__file__, *[".."] * 5)))

from airflow_stepop.hooks.local.supervisor.job import Job
from airflow_stepop.hooks.local.supervisor.state import (
    CANCEL,
    CANCELLED,
    LOCK,
    REQUEST,
    START,
    STATE,
    SUPERVISOR_LOG,
    reserve_space,
)

# exit codes, for the folder that waits for them
EXIT_SUPERVISED = 0  # state.json is there
EXIT_FAILED = 1  # stderr says why
EXIT_NO_PERMISSION = 3  # `start` is gone: the job was looked up while it was not there yet

LOCK_TIMEOUT_S = 10.0


def take_lock() -> bool:
    """Return once this process holds the lock; ``False`` when the job has a state already."""
    fd = os.open(LOCK, os.O_RDWR)  # stays open as long as we live
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not os.path.exists(STATE):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)  # another supervisor that is about to write the state, or a `lookup`
        else:
            return not os.path.exists(STATE)
    return False


def supervise(announce: Callable[[], None]) -> int:
    """Take the job if nobody has, tell ``announce`` when it has begun, and watch it to its end."""
    if not take_lock():
        return EXIT_SUPERVISED
    if not os.path.exists(START):
        return EXIT_NO_PERMISSION
    with open(REQUEST, encoding="utf-8") as file:
        job = Job(json.load(file))
    if os.path.exists(CANCEL):
        job.end_early(CANCELLED)
        return EXIT_SUPERVISED
    reserve_space(".")
    job.run(announce)
    return EXIT_SUPERVISED


def run_in_background(answer_fd: int) -> None:
    """Supervise, and write an exit code and a message to ``answer_fd`` as soon as the caller may go on."""

    def answer(exit_code: int = EXIT_SUPERVISED, message: str = "") -> None:
        nonlocal answer_fd
        if answer_fd >= 0:
            os.write(answer_fd, bytes([exit_code]) + message.encode())
            os.close(answer_fd)
            answer_fd = -1

    try:
        let_go_of_caller()
        answer(supervise(answer))
    except BaseException as error:  # the outermost frame: whoever waits must hear of it
        import traceback

        traceback.print_exc()
        answer(EXIT_FAILED, f"{type(error).__name__}: {error}")


def let_go_of_caller() -> None:
    """Leave its session and its standard streams; it has passed nothing else on."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(SUPERVISOR_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)


def main(folder: str) -> int:
    """Return an exit code as soon as the job in ``folder`` is supervised, or cannot be."""
    os.chdir(folder)
    answer_fd, answer_write_fd = os.pipe()
    if os.fork() == 0:
        try:
            os.close(answer_fd)
            run_in_background(answer_write_fd)
        finally:
            os._exit(0)
    os.close(answer_write_fd)
    with os.fdopen(answer_fd, "rb") as file:
        answer = file.read() or bytes([EXIT_FAILED]) + b"the supervisor was killed while it started"
    sys.stderr.write(answer[1:].decode("utf-8", "replace"))
    return answer[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
