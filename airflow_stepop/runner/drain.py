"""Waits until the container runtime has read the step's log. Called by the parent before it exits.

When the last process of a container ends, the runtime may drop the bytes that are still in the pipe: the last
lines of the log, or an outcome in these lines.
"""

from __future__ import annotations

import os

LIMIT_S = 10.0  # longest wait for the reader
# The container runtime passes the log on through a buffer and a second pipe. An idle node needs a hundredth
# of this time.
LINGER_S = 0.2
BEHIND = 3  # linger this many times as long as the first pipe took: the stages behind it hold as much or more


def wait_until_read(linger_s: float = 0.0) -> None:
    """Wait until the pipes of standard output and error are empty. Return at once if neither is a pipe.

    :param linger_s: shortest time in seconds to stay after the pipes are empty. A container runtime may drop
        bytes that it has read and not yet passed on when the process ends:
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
    """Return the number of unread bytes in a pipe."""
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")
    except OSError:
        return 0
