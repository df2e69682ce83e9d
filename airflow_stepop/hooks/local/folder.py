"""One folder per local job: what :mod:`airflow_stepop.hooks.local` and the job's supervisor share.

The supervisor owns the folder while it lives; everyone else only reads, asks whether the lock is held, or
leaves a note (``cancel``). Whether a job runs is decided by the kernel's locks and never by a recorded pid,
so a reboot or a pid that was used again cannot be mistaken for a job.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.stored_json import COUNT, NUMBER, OBJECT, TEXT, FieldType, checked_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError, StepInterruptedError
from airflow_stepop.failure import Failure
from airflow_stepop.hooks.common.receipts import RECEIPT_FIELDS
from airflow_stepop.hooks.local.supervisor import main as supervisor
from airflow_stepop.hooks.local.supervisor import state as files
from airflow_stepop.hooks.local.supervisor.log import Place, read_records, read_tail
from airflow_stepop.hooks.local.supervisor.systems import LINUX, OWN, System, find_system
from airflow_stepop.job import LogChunk, LogLine
from airflow_stepop.runner.protocol import ENV_JOB

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import Request, State
    from airflow_stepop.job import Buffer, Cursor

_NAME = re.compile(r"[a-z][a-z0-9-]{0,51}")
_LOCK_TRIES = 5
_UNFINISHED = ".new"  # folders that a submit is filling, and folders that are being deleted
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
    """The folder of one job; it need not exist."""

    def __init__(self, path: Path) -> None:
        if not _NAME.fullmatch(path.name):
            raise ValueError(f"{path.name!r} is not the name of a job")
        self.path = path
        self.name = path.name

    @classmethod
    def all(cls, parent: Path) -> Iterator[JobFolder]:
        """Yield every job below ``parent``."""
        for path in sorted(parent.iterdir()) if parent.exists() else ():
            if _NAME.fullmatch(path.name):
                yield cls(path)

    def create(self, request: Mapping[str, object], inputs: Mapping[str, Sequence[Buffer]]) -> None:
        """Make the folder with everything in it, at once; one that exists already stays as it is.

        The first call wins: a later one may bring other bytes (a pickle differs between processes) that
        would not fit to what the first has left behind.
        """
        if self.path.exists():
            return
        nursery = self.path.parent / _UNFINISHED
        nursery.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_old(nursery)
        draft = nursery / f"{self.name}.{secrets.token_hex(4)}"
        draft.mkdir(mode=0o700)
        try:
            (draft / files.INPUT).mkdir()
            (draft / files.OUTPUT).mkdir()
            for name, buffers in inputs.items():
                _write_private(draft / files.INPUT / name, buffers)
            (draft / files.LOCK).touch()
            with contextlib.suppress(OSError):  # some network file systems have none
                os.mkfifo(draft / files.WAKE, 0o600)
            (draft / files.REQUEST).write_text(json.dumps(request, indent=1))
            draft.rename(self.path)
        except OSError:
            if not self.path.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def request(self) -> Request | None:
        """Return what was submitted; ``None`` when there is no such job.

        :raises IntegrityError: it is damaged
        """
        return _read_json(self.path / files.REQUEST, _REQUEST_FIELDS)  # type: ignore[return-value] # its fields are checked

    def state(self) -> State | None:
        """Return what the supervisor has written down; ``None`` before the step has started.

        :raises IntegrityError: it is damaged
        """
        found = _read_json(self.path / files.STATE, _STATE_FIELDS, _STATE_OPTIONAL)
        if found is not None and found["receipt"] is not None:
            checked_fields(found["receipt"], f"receipt in {self.path / files.STATE}", *RECEIPT_FIELDS)
        if found is not None and found["failure"] is not None:
            try:
                Failure.from_json(found["failure"])
            except IntegrityError as error:
                raise IntegrityError(f"failure in {self.path / files.STATE}: {error}") from error
        return found  # type: ignore[return-value] # its fields are checked

    def created_at(self) -> float:
        """Return when it was submitted, seconds since the epoch; 0 when there is no such job."""
        try:
            return (self.path / files.REQUEST).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def system(self) -> System:
        """Return the way by which the job was started."""
        return find_system(self._system_name())

    def _system_name(self) -> str:
        try:
            return str((self.request() or {}).get("system", OWN))
        except IntegrityError:
            return OWN

    # the supervisor

    def start(self, env: Mapping[str, str]) -> None:
        """Return when a supervisor has the job, this or an earlier one.

        :raises StepInterruptedError: it could not be started; trying again is safe
        """
        flags = ["-I", "-S"] if self._system_name() == LINUX else ["-I"]  # the portable way needs psutil
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not (self.path / files.STATE).exists():
            self._permit()
            result = subprocess.run(  # noqa: S603 - our own file, with this interpreter
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
                f"the local job {self.name} was taken back while it was being submitted; "
                "its task was ended or cleared, or another try has it"
            ) from error

    def is_supervised(self) -> bool:
        """Return whether a supervisor lives, in whatever container."""
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
        """Have the supervisor look at the notes at once; it would do so by itself within a second."""
        with contextlib.suppress(OSError):  # nobody reads it (any more)
            fd = os.open(self.path / files.WAKE, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def unsupervised(self) -> Iterator[bool]:
        """Keep supervisors away for a moment; ``False`` when one lives (or somebody else does the same)."""
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
        """Remove the job unless its step has started; return whether it has not.

        No supervisor that is on its way may start it then. This also clears away what a killed submit left.
        """
        deadline = time.monotonic() + supervisor.LOCK_TIMEOUT_S
        while self.path.exists() and time.monotonic() < deadline:
            with self.unsupervised() as is_ours:
                if (self.path / files.STATE).exists():
                    return False
                if is_ours:
                    (self.path / files.START).unlink(missing_ok=True)
                    self.remove()  # with the lock: else a submit could start the step in between
                    return True
            time.sleep(0.005)
        return True

    # the end

    def finish(self, state: State) -> bool:
        """Write the last state in place of a supervisor that is dead or never was; ``False`` when one lives.

        Whatever the dead one has left running is killed first.
        """
        with self.unsupervised() as is_ours:
            if not is_ours:
                return False
            self.system().kill_marked(f"{ENV_JOB}={self.name}")
            current = self._state_or_nothing()
            if not current or not files.is_over(current):
                files.remove_tmp(current)
                end = max(time.time(), current.get("started_at") or 0)  # the clock may have been set
                files.write_state(str(self.path), {**_NEVER_STARTED, **current, **state, "finished_at": end})
            return True

    def _state_or_nothing(self) -> State:
        try:
            return self.state() or {}
        except IntegrityError:
            return {}

    def remove(self) -> None:
        """Remove the folder; a crash in the middle leaves a job that is gone."""
        nursery = self.path.parent / _UNFINISHED
        nursery.mkdir(mode=0o700, exist_ok=True)
        trash = nursery / f"{self.name}.{secrets.token_hex(4)}"
        files.remove_tmp(self._state_or_nothing())  # if a supervisor died after its last state
        try:
            self.path.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def supervisor_error(self) -> str:
        """Return the last line that the supervisor itself has printed; it does so only when it fails."""
        try:
            return (self.path / files.SUPERVISOR_LOG).read_text(errors="replace").rstrip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    # the log

    def read_log(self, cursor: Cursor, max_bytes: int) -> LogChunk | None:
        """Return the lines since ``cursor``, a place in the log; ``None`` when there are none."""
        records, place = read_records(str(self.path / files.LOG), Place.parse(cursor), max_bytes)
        return LogChunk([LogLine(*record) for record in records], str(place)) if records else None

    def read_tail(self, count: int, since: Cursor) -> LogChunk:
        """Return the last ``count`` lines since ``since``."""
        records, place = read_tail(str(self.path / files.LOG), count, Place.parse(since))
        return LogChunk([LogLine(*record) for record in records], str(place))


def _write_private(path: Path, buffers: Sequence[Buffer]) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.writelines(buffers)


def _take(fd: int) -> bool:
    """Take the lock; more than once, as somebody may just be asking whether it is taken."""
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
    """Return what is in a file of ours; ``None`` when it is not there.

    :raises IntegrityError: it is not what was written
    """
    try:
        value: Any = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    checked_fields(value, str(path), required, optional)
    return dict(value)


def _remove_old(nursery: Path) -> None:
    """Remove what a crash in the middle of a submit or a delete has left."""
    for folder in nursery.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _TRASH_AGE_S:
                shutil.rmtree(folder, ignore_errors=True)
