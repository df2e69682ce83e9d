"""Forks and executes the runner of a local job. ``job.py`` calls it. Standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping


def launch(
    argv: list[str],
    env: Mapping[str, str],
    prepare: Callable[[], None],
    *,
    log_fd: int,
    receipt_fd: int,
) -> tuple[int, str]:
    """Start the runner. Return its pid, and an error message if it could not be executed, else ``""``.

    :param argv: the runner's command, which begins with the path of the interpreter
    :param prepare: called in the child before it executes the runner
    :param log_fd: descriptor for the runner's stdout and stderr
    :param receipt_fd: descriptor that the runner inherits, for the receipt
    """
    error_fd, error_write_fd = os.pipe()  # a successful exec closes the write end
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prepare()
            _forget_signals()
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            os.set_inheritable(receipt_fd, True)
            os.execve(argv[0], argv, env)  # noqa: S606 - deliberately without a shell
        except BaseException as error:  # the child must not return into the supervisor's code
            os.write(error_write_fd, f"{argv[0]} could not be started: {error}".encode())
        finally:
            os._exit(127)
    os.close(error_write_fd)
    with os.fdopen(error_fd, "rb") as file:
        return pid, file.read().decode("utf-8", "replace")


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
