"""The program of the supervisor, which starts and watches one local job.

``JobFolder.start`` runs this file by its path: ``python -I -S supervisor/main.py JOB_FOLDER``. The command
returns as soon as the job has a supervisor, from this call or an earlier one. The supervisor continues in the
background; it needs neither Airflow nor its caller.

A supervisor starts the step only while it holds the file ``lock`` and ``state.json`` does not exist yet. So
the step starts at most once, however often this program is called.

Standard library and the modules of this folder only, because the supervisor must start fast.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable

if __name__ == "__main__":  # with -I and -S, the path has the standard library only; this package comes last
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

# Exit codes, which JobFolder.start reads
EXIT_SUPERVISED = 0  # the job has a supervisor, or is over: state.json exists
EXIT_FAILED = 1  # the error is on stderr
EXIT_NO_PERMISSION = 3  # the file `start` is gone: a `lookup` has withdrawn the job

LOCK_TIMEOUT_S = 10.0


def take_lock() -> bool:
    """Wait until this process holds the lock. Return ``False`` if the job has a state already.

    :raises BlockingIOError: another process held the lock for ten seconds and wrote no state
    """
    fd = os.open(LOCK, os.O_RDWR)  # stays open, and so locked, as long as this process lives
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not os.path.exists(STATE):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)  # another supervisor is about to write the state, or a `lookup` holds the lock
        else:
            return not os.path.exists(STATE)
    return False


def supervise(announce: Callable[[], None]) -> int:
    """Run the job to its end, unless another supervisor has it. Return an exit code.

    :param announce: called when the job has a state, that is, when the caller of this program may continue
    """
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
    """Run the job. As soon as the caller may continue, write the answer for it to ``answer_fd``.

    The answer is one byte, the exit code, and a message.
    """

    def answer(exit_code: int = EXIT_SUPERVISED, message: str = "") -> None:
        nonlocal answer_fd
        if answer_fd >= 0:
            os.write(answer_fd, bytes([exit_code]) + message.encode())
            os.close(answer_fd)
            answer_fd = -1

    try:
        let_go_of_caller()
        answer(supervise(answer))
    except BaseException as error:  # the process that waits for the answer must learn of every error
        import traceback

        traceback.print_exc()
        answer(EXIT_FAILED, f"{type(error).__name__}: {error}")


def let_go_of_caller() -> None:
    """Leave the caller's session and its standard streams. The caller passes no other descriptor on."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(SUPERVISOR_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)


def main(folder: str) -> int:
    """Start a supervisor in the background. Return an exit code as soon as the job has one, or cannot.

    :param folder: path of the job's folder
    """
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
