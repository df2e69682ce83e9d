"""Whoever reads what a step prints. When the last process of a container ends, its runtime may forget what is
still in the pipe: the last lines of the log, or an outcome in them.
"""

from __future__ import annotations

import os

LIMIT_S = 10.0  # a reader that is slower than that is none
# who reads the pipe of a container hands it on through a buffer and another pipe; a node that is not busy
# needs a hundredth of that
LINGER_S = 0.2
BEHIND = 3  # times as long as our pipe took: what has the same size as it, and more of it


def wait_until_read(linger_s: float = 0.0) -> None:
    """Wait until the pipes behind standard output and error are empty; at once where there are none.

    :param linger_s: how long to stay after that at least, for whoever hands on what it has read. A container
        runtime may forget that when the process has ended:
        https://github.com/containerd/containerd/blob/v1.6.20/task.go#L322
    """
    import stat
    import time

    pipes = [fd for fd in (1, 2) if stat.S_ISFIFO(_mode(fd))]
    began, rest_s = time.monotonic(), linger_s
    while any([_unread(fd) for fd in pipes]) and time.monotonic() < began + LIMIT_S:
        time.sleep(0.002)
        rest_s = max(linger_s, BEHIND * (time.monotonic() - began))
    is_read = time.monotonic() < began + LIMIT_S
    if pipes and rest_s and is_read:
        time.sleep(min(rest_s, LIMIT_S))


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
