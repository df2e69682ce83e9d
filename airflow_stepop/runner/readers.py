"""Whoever reads what a step prints. When the last process of a container ends, its runtime may forget what is
still in the pipe: the last lines of the log, or an outcome in them.
"""

from __future__ import annotations

import os

LIMIT_S = 10.0  # a reader that is slower than that is none
REST_S = 0.2  # after the pipe is empty, until what has read it has written it


def wait_until_read(is_precious: bool = False) -> None:
    """Wait until the pipes behind standard output and error are empty; at once where there are none.

    :param is_precious: what was printed must not be lost, so that an empty pipe is not enough
    """
    import stat
    import time

    pipes = [fd for fd in (1, 2) if stat.S_ISFIFO(_mode(fd))]
    end, is_late = time.monotonic() + LIMIT_S, is_precious
    while any([_unread(fd) for fd in pipes]) and time.monotonic() < end:
        is_late = True
        time.sleep(0.002)
    if pipes and is_late:
        time.sleep(REST_S)


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:  # the step has closed it
        return 0


def _unread(fd: int) -> int:
    """Return how many bytes are in a pipe."""
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")
    except OSError:
        return 0
