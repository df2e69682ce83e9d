"""The files of a local job's folder, and ``state.json``: how the job stands. Standard library only."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_stepop.runner.protocol import CHECKPOINT, SECRETS

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import State

# Renaming one breaks jobs in flight.
REQUEST = "request.json"  # what to run, within which limits
START = "start"  # permission to start: `lookup` takes it back from a supervisor whose caller died
LOCK = "lock"  # held by the supervisor as long as it lives
WAKE = "wake"  # a fifo: a byte in it makes the supervisor look at the notes at once
STATE = "state.json"  # first written just before the step starts, last when the job is over
RESERVE = "state.reserve"  # disk space for the last state.json, so that a full disk cannot lose it
CANCEL = "cancel"  # somebody wants the job to stop
LOG = "log"  # what the step printed
SUPERVISOR_LOG = "supervisor.log"  # what the supervisor has to say when it fails
INPUT = "in"
OUTPUT = "out"

RESERVE_BYTES = 640 * 1024  # the largest receipt, escaped, and the rest

PENDING, RUNNING = "pending", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
STATES = PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED


def write_state(folder: str, state: State) -> None:
    """Replace ``state.json``, durably; the last one goes into the space that was reserved for it.

    With the last one the secrets go, should the runner never have come to read them.
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
    """Take the disk space of the last state now.

    :raises OSError: there is none: better before the step than after it
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
    """Make the folder for a job's temporary files, or take the one that an interrupted start has made.

    :raises FileExistsError: it is somebody else's
    """
    try:
        os.mkdir(tmp, 0o700)
    except FileExistsError:
        found = os.lstat(tmp)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise


def remove_tmp(state: State) -> None:
    """Remove the temporary files of a job whose processes are all gone."""
    from shutil import rmtree  # many imports, and only now

    tmp = state.get("tmp") or ""
    if os.path.basename(tmp).startswith("stepop-"):
        rmtree(tmp, ignore_errors=True)
