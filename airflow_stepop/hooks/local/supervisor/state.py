"""The names of the files in a local job's folder, and functions that write ``state.json``, the job's state.

The supervisor calls them, and ``JobFolder`` for a job without a supervisor. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_stepop.runner.protocol import CHECKPOINT, SECRETS

if TYPE_CHECKING:
    from typing import BinaryIO

    from airflow_stepop.hooks.local.supervisor.documents import State

# Jobs that are running when Airflow is upgraded use these names. Do not change them.
REQUEST = "request.json"  # what to run, and the limits
START = "start"  # permission to start the step: `lookup` removes it, so that a late supervisor starts nothing
LOCK = "lock"  # the supervisor holds a lock on it as long as it lives
WAKE = "wake"  # a named pipe: a byte in it makes the supervisor read the notes at once
STATE = "state.json"  # first written before the step starts or waits for GPUs, last when the job is over
RESERVE = "state.reserve"  # reserves disk space for the last state.json, which then also fits on a full disk
CANCEL = "cancel"  # a note: stop the job
LOG = "log"  # the output of the step
SUPERVISOR_LOG = "supervisor.log"  # errors of the supervisor itself
INPUT = "in"  # input folder of the runner
OUTPUT = "out"  # output folder of the runner

LARGEST_BYTES = 16 << 20  # of request.json and state.json: a larger file was not written by this package
RESERVE_BYTES = 640 * 1024  # enough for the largest receipt in its JSON form, and the other fields

PENDING, RUNNING = "pending", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
STATES = PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED


def opened_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of the job to read it. The step may have put a pipe in its place, which would block.

    :raises OSError: it cannot be read, or it is a link or no file
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return open(fd, "rb")


def write_state(folder: str, state: State) -> None:
    """Replace ``state.json``, atomically and durably (fsync).

    The last state is written into the reserved disk space. Before that, the files with secrets are deleted,
    in case the runner never read and deleted them.
    """
    for name in (SECRETS, CHECKPOINT) if is_over(state) else ():
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, INPUT, name))
    data = json.dumps(state, ensure_ascii=False).encode("utf-8", "surrogateescape")
    draft = os.path.join(folder, RESERVE if is_over(state) else STATE + ".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(draft, os.path.join(folder, STATE))
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def reserve_space(folder: str) -> None:
    """Reserve disk space for the last state before the step starts.

    :raises OSError: the disk is full, which is better found before the step than after it
    """
    fd = os.open(os.path.join(folder, RESERVE), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        else:  # macOS
            os.write(fd, bytes(RESERVE_BYTES))
    finally:
        os.close(fd)


def is_over(state: State) -> bool:
    return state["finished_at"] is not None


def make_tmp(tmp: str) -> None:
    """Create a folder that only this user can access. An existing folder of this kind is used as it is.

    :raises FileExistsError: the path exists and is not a folder, belongs to another user, or is open to
        others
    """
    try:
        os.mkdir(tmp, 0o700)
    except FileExistsError:
        found = os.lstat(tmp)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise


def tmp_name(nonce: str) -> str:
    """Return the name of the temporary folder of a job. It is short, as paths of sockets must be short."""
    return f"stepop-{nonce[:12]}"


def remove_tmp(state: State, nonce: str) -> None:
    """Remove the temporary folder of a job that has no processes any more.

    The step may have changed the state, so only a folder with the job's own name is removed, and no link.

    :param nonce: the nonce of the job; empty if it is not known: nothing is removed
    """
    from shutil import rmtree  # imported here, because it imports many modules

    tmp = state.get("tmp") or ""
    if nonce and os.path.basename(tmp) == tmp_name(nonce):
        rmtree(tmp, ignore_errors=True)  # refuses a link
