"""The folder of a local job. The hook (``hook.py``) reads and changes it with :class:`JobFolder`.

Each job has one folder, which the hook and the job's supervisor share. ``supervisor/state.py`` lists its
files. While the supervisor lives, only the supervisor writes the state and the log. Every other process only
reads, tests whether the lock is held, or leaves a note (the file ``cancel``).

The supervisor holds a lock of the kernel as long as it lives. So the lock tells whether a job runs. A
recorded pid would not: after a reboot, or when the kernel has reused the pid, it could belong to another
process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.core.stored_json import (
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    FieldType,
    checked_fields,
    or_nothing,
    parsed_json,
)
from airflow_stepop.exceptions import IntegrityError, StepInterruptedError
from airflow_stepop.failure import Failure
from airflow_stepop.hooks.common.log_cursors import visible
from airflow_stepop.hooks.common.receipts import RECEIPT_FIELDS
from airflow_stepop.hooks.local.supervisor import main as supervisor
from airflow_stepop.hooks.local.supervisor import state as files
from airflow_stepop.hooks.local.supervisor.log import LogPosition, read_records, read_tail
from airflow_stepop.hooks.local.supervisor.systems import LINUX, OWN, System, find_system
from airflow_stepop.job import LogChunk
from airflow_stepop.runner.ownership import NotPrivateError, take_folder
from airflow_stepop.runner.protocol import ENV_JOB

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.input_files import InputFile
    from airflow_stepop.hooks.local.supervisor.documents import Request, State
    from airflow_stepop.job import Buffer, Cursor

_NAME = re.compile(r"[a-z][a-z0-9-]{0,51}")
_LOCK_TRIES = 5
_NO_FILE = (errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EISDIR)  # a pipe, a link, a socket, a folder
_UNFINISHED = ".new"  # holds folders that a submit is still filling, and folders that are being deleted
_NEVER_STARTED: State = {
    "exit_code": None,
    "signal": None,
    "failure": None,
    "receipt": None,
    "usage": {},
}
_REQUEST_FIELDS = {"nonce": TEXT, "labels": OBJECT, "result_uri": TEXT}
_STATE_FIELDS = {
    "state": ("a state", lambda value: value in files.STATES),
    "finished_at": or_nothing(NUMBER),
    "failure": or_nothing(OBJECT),
    "receipt": or_nothing(OBJECT),
}
_STATE_OPTIONAL = {
    "started_at": or_nothing(NUMBER),
    "tmp": TEXT,
    "boot_id": TEXT,
    "usage": OBJECT,
    "pid": COUNT,
}
_TRASH_AGE_S = 3600.0
_START_TIMEOUT_S = 60.0


class JobFolder:
    """The folder of one job. The folder may not exist (yet).

    :param path: path of the folder; its name is the name of the job
    :raises ValueError: the folder's name is not a valid name of a job
    """

    def __init__(self, path: Path) -> None:
        if not _NAME.fullmatch(path.name):
            raise ValueError(f"{path.name!r} is not the name of a job")
        self.path = path
        self.name = path.name

    @classmethod
    def all(cls, parent: Path) -> Iterator[JobFolder]:
        """Yield every job below ``parent``."""
        for path in sorted(parent.iterdir()) if parent.exists() else ():
            if _NAME.fullmatch(path.name) and not path.is_symlink():
                yield cls(path)

    def create(self, request: Mapping[str, object], inputs: Mapping[str, InputFile]) -> None:
        """Create the folder with all of its files, atomically. An existing folder stays unchanged.

        The first call wins. A later call may bring other bytes, because a pickle can differ between
        processes, and those would not match the files of the first call.

        :param request: content of ``request.json``
        :param inputs: files of the runner's input folder, by name
        """
        if self.path.exists():
            return
        nursery = self.path.parent / _UNFINISHED
        take_folder(str(nursery))
        _remove_old(nursery)
        draft = nursery / f"{self.name}.{secrets.token_hex(4)}"
        draft.mkdir(mode=0o700)
        try:
            (draft / files.INPUT).mkdir()
            (draft / files.OUTPUT).mkdir()
            for name, file in inputs.items():
                _write_private(draft / files.INPUT / name, file.buffers)
            (draft / files.LOCK).touch()
            with contextlib.suppress(OSError):  # some network file systems have no named pipes
                os.mkfifo(draft / files.WAKE, 0o600)
            (draft / files.REQUEST).write_text(json.dumps(request, indent=1))
            draft.rename(self.path)
        except OSError:
            if not self.path.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def request(self) -> Request | None:
        """Return the submitted request, or ``None`` if there is no such job.

        :raises IntegrityError: ``request.json`` is damaged
        """
        return cast("Request | None", _read_json(self.path / files.REQUEST, _REQUEST_FIELDS))

    def state(self) -> State | None:
        """Return the state that the supervisor has written, or ``None`` if it has not written one yet.

        :raises IntegrityError: ``state.json`` is damaged
        """
        found = _read_json(self.path / files.STATE, _STATE_FIELDS, _STATE_OPTIONAL)
        if found is not None and found["receipt"] is not None:
            checked_fields(found["receipt"], f"receipt in {self.path / files.STATE}", *RECEIPT_FIELDS)
        if found is not None and found["failure"] is not None:
            try:
                Failure.from_json(found["failure"])
            except IntegrityError as error:
                raise IntegrityError(f"failure in {self.path / files.STATE}: {error}") from error
        return cast("State | None", found)

    def created_at(self) -> float:
        """Return the time of the submit in seconds since the epoch, or 0 if there is no such job."""
        try:
            return (self.path / files.REQUEST).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def system(self) -> System:
        """Return the module that handles this job's processes: the one with which the job was started."""
        return find_system(self._system_name())

    def _system_name(self) -> str:
        try:
            return str((self.request() or {}).get("system", OWN))
        except IntegrityError:
            return OWN

    # the supervisor

    def start(self, env: Mapping[str, str]) -> None:
        """Start a supervisor unless the job has one already. Return when the job is supervised.

        :param env: environment of the supervisor, from which the step inherits
        :raises StepInterruptedError: the supervisor did not start; another call is safe
        """
        flags = ["-I", "-S"] if self._system_name() == LINUX else ["-I"]  # portable.py imports psutil
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not (self.path / files.STATE).exists():
            self._permit()
            result = subprocess.run(  # noqa: S603 - a file of this package, with this interpreter
                [sys.executable, *flags, supervisor.__file__, str(self.path)],
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                check=False,
            )
            if result.returncode == supervisor.EXIT_SUPERVISED:
                return
            if result.returncode != supervisor.EXIT_NO_PERMISSION or time.monotonic() > deadline:
                why = result.stderr.decode(errors="replace").strip() or f"exit code {result.returncode}"
                raise StepInterruptedError(
                    f"the supervisor of the local job {self.name} did not start: {why} (in {self.path})"
                )

    def _permit(self) -> None:
        try:
            (self.path / files.START).touch()
        except FileNotFoundError as error:
            raise StepInterruptedError(
                f"the local job {self.name} was withdrawn while it was being submitted: "
                "its task was ended or cleared, or another try has taken it over"
            ) from error

    def is_supervised(self) -> bool:
        """Return whether a supervisor of this job lives, in this container or another one on this host."""
        try:
            fd = os.open(self.path / files.LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def wake_supervisor(self) -> None:
        """Make the supervisor read the notes now. By itself the supervisor reads them within a second."""
        with contextlib.suppress(OSError):  # no supervisor has the pipe open
            fd = os.open(self.path / files.WAKE, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def unsupervised(self) -> Iterator[bool]:
        """Context manager: hold the job's lock, so that no supervisor can start.

        Its value is ``False`` if a supervisor, or another process in this method, holds the lock.
        """
        try:
            fd = os.open(self.path / files.LOCK, os.O_RDWR)
        except FileNotFoundError:
            yield False
            return
        try:
            yield _take(fd)
        finally:
            os.close(fd)

    def withdraw(self) -> bool:
        """Remove the job if its step has not started; return ``False`` if the step has started.

        A supervisor that is starting at this moment can then no longer start the step. The method also
        removes the files of a submit that was killed. A supervisor that holds the lock for longer than
        ``LOCK_TIMEOUT_S`` counts as started.
        """
        deadline = time.monotonic() + supervisor.LOCK_TIMEOUT_S
        while self.path.exists() and time.monotonic() < deadline:
            with self.unsupervised() as is_ours:
                if (self.path / files.STATE).exists():
                    return False
                if is_ours:
                    (self.path / files.START).unlink(missing_ok=True)
                    self.remove()  # while this process holds the lock, else a submit could start the step
                    return True
            time.sleep(0.005)
        return not self.path.exists()

    # the end

    def finish(self, state: State) -> bool:
        """Write the last state of a job that has no supervisor, because it died or never started.

        First kill the processes that the dead supervisor has left running.

        :return: ``False`` if a supervisor lives; then nothing is changed
        """
        with self.unsupervised() as is_ours:
            if not is_ours:
                return False
            self.system().kill_marked(f"{ENV_JOB}={self.name}")
            current = self._state_or_nothing()
            if not current or not files.is_over(current):
                files.remove_tmp(current, self._nonce())
                end = max(time.time(), current.get("started_at") or 0)  # the clock may have been set back
                files.write_state(str(self.path), {**_NEVER_STARTED, **current, **state, "finished_at": end})
            return True

    def _nonce(self) -> str:
        """Return the nonce of the job; an empty text if it was changed: the job's name has its hash."""
        try:
            nonce = (self.request() or {}).get("nonce", "")
        except IntegrityError:
            return ""
        return nonce if self.name.endswith(f"-{nonce_hash(nonce)}") else ""

    def _state_or_nothing(self) -> State:
        try:
            return self.state() or {}
        except IntegrityError:
            return {}

    def remove(self) -> None:
        """Remove the folder. If this process crashes halfway, the job is gone; a later submit cleans up."""
        nursery = self.path.parent / _UNFINISHED
        nursery.mkdir(mode=0o700, exist_ok=True)
        if nursery.is_symlink():
            raise NotPrivateError(f"{nursery} is a link: {self.path} was not deleted")
        trash = nursery / f"{self.name}.{secrets.token_hex(4)}"
        files.remove_tmp(
            self._state_or_nothing(), self._nonce()
        )  # left if the supervisor died after its last state
        try:
            self.path.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def supervisor_error(self) -> str:
        """Return the last line of the supervisor's own log. A supervisor prints only if it fails."""
        try:
            return (self.path / files.SUPERVISOR_LOG).read_text(errors="replace").rstrip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    # the log

    def read_log(self, cursor: Cursor, max_bytes: int) -> LogChunk | None:
        """Return the log lines after ``cursor``, or ``None`` if there are no new lines."""
        records, after = read_records(str(self.path / files.LOG), LogPosition.parse(cursor), max_bytes)
        return LogChunk(visible(records), str(after)) if records else None

    def read_tail(self, count: int, since: Cursor) -> LogChunk:
        """Return the last ``count`` log lines after the cursor ``since``."""
        records, after = read_tail(str(self.path / files.LOG), count, LogPosition.parse(since))
        return LogChunk(visible(records)[-count:], str(after))


def _write_private(path: Path, buffers: Sequence[Buffer]) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.writelines(buffers)


def _take(fd: int) -> bool:
    """Try to take the lock a few times: ``is_supervised`` of another process may hold it for a moment."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return True
    return False


def _read_json(
    path: Path, required: Mapping[str, FieldType], optional: Mapping[str, FieldType] | None = None
) -> dict[str, Any] | None:
    """Return the object in a JSON file, or ``None`` if the file does not exist.

    :raises IntegrityError: the file is not JSON, or a field is missing or has the wrong type
    """
    try:
        with files.opened_file(path) as file:
            data = file.read(files.LARGEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise IntegrityError(f"{path} is damaged: it is no file") from None
    if len(data) > files.LARGEST_BYTES:
        raise IntegrityError(f"{path} is damaged: it has more than {files.LARGEST_BYTES} bytes")
    value = parsed_json(data.decode("utf-8", "surrogateescape"), str(path))
    checked_fields(value, str(path), required, optional)
    return dict(value)


def _remove_old(nursery: Path) -> None:
    """Remove folders that a crash during a submit or a deletion has left behind, after an hour."""
    for folder in nursery.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.lstat().st_mtime > _TRASH_AGE_S:
                shutil.rmtree(folder, ignore_errors=True)
