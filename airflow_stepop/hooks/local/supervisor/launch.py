"""Fork and execute the runner of a local job. Standard library only."""

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
    """Return the runner's pid, and why it could not be executed, if so.

    :param prepare: what the child does before it becomes the runner
    :param log_fd: where the runner prints
    :param receipt_fd: what it keeps open
    """
    error_fd, error_write_fd = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prepare()
            _forget_signals()
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            os.set_inheritable(receipt_fd, True)
            os.execve(argv[0], argv, env)  # noqa: S606 - no shell is the point
        except BaseException as error:  # the child's outermost frame: it must not return into our code
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
