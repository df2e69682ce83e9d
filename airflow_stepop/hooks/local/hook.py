"""The hook of the ``local`` backend, which runs a step as a process on this host.

**Purpose:** The step outlives the Airflow worker that started it. No service is involved.

**How it works:** ``submit`` writes a folder per job and starts a supervisor (``supervisor/main.py``), one
small process per job. The supervisor starts the runner, keeps its log, applies the limits and writes the
job's state. The hook reads the log and the state from the folder. ``folder.py`` describes how the hook and
the supervisor share the folder.

**Known limits:** Only the host that started a job can see it. The job ends with its host, and when all
processes of the worker's service are ended at once, for example by systemd or with the worker's container.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_stepop.core.host import airflow_folder, host_id
from airflow_stepop.core.stored_json import TEXT
from airflow_stepop.core.units import parse_size, shown_size
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, StepConfigError, UnsupportedError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.checks import Check, run_checks
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.receipts import Receipt, report
from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
from airflow_stepop.hooks.common.same_job import is_same_job, refuse_name
from airflow_stepop.hooks.common.state_table import StateTable
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.hooks.local.host import (
    HostFacts,
    check_folder,
    check_lock_folder,
    chosen_gpus,
    impossible,
    is_program,
    no_room,
    own_folder,
    step_environment,
)
from airflow_stepop.hooks.local.settings import LocalSettings
from airflow_stepop.hooks.local.supervisor import state as files
from airflow_stepop.hooks.local.supervisor.gpus import LOCK_FOLDER, VISIBLE, describe
from airflow_stepop.hooks.local.supervisor.systems import OWN, SUPPORTED, System, find_system
from airflow_stepop.job import (
    Cursor,
    Finding,
    FoundJob,
    JobHandle,
    JobState,
    JobStatus,
    LogChunk,
    OutcomeReport,
    Payload,
    StepSpec,
)
from airflow_stepop.runner.protocol import OUTCOME, OUTCOME_BYTES
from airflow_stepop.runner.secret_references import AWS
from airflow_stepop.stores.folder import THIS_HOST

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.supervisor.documents import State
    from airflow_stepop.runner import wire

RECEIPT_LIMIT_BYTES = 256 * 1024
LOG_BYTES_PER_JOB = 256 * 1024  # per read: short lines become thousands of objects
LOG_BYTES_PER_CALL = 8 * 1024 * 1024

_STATES = StateTable(
    "the local supervisor",
    {
        files.PENDING: JobState.PENDING,
        files.RUNNING: JobState.RUNNING,
        files.SUCCEEDED: JobState.SUCCEEDED,
        files.FAILED: JobState.FAILED,
        files.CANCELLED: JobState.CANCELLED,
    },
)


class LocalStepHook(StepHook[LocalSettings]):
    """Runs steps as processes on this host.

    :param folder: folder of the jobs; by default ``[stepop] local_folder``
    :param system: module that handles the processes, ``linux`` or ``portable``; by default the one for this
        operating system
    """

    backend: ClassVar[str] = "local"
    settings_model = LocalSettings
    inline_limit: ClassVar[int] = 2**40  # bytes; the payload is a file, which only the disk limits
    is_host_bound: ClassVar[bool] = True
    state_table: ClassVar[StateTable] = _STATES
    secret_services: ClassVar[frozenset[str]] = frozenset({AWS})  # with the keys that the worker has
    poll_interval_s: ClassVar[float] = 0.5  # a poll reads one file per job
    wrong_scope: ClassVar[str] = (
        "{handle} runs on the host {scope}, and this is {here}: only its own host can see a local job. "
        "Use deferrable=False, so that the worker which started the job waits for it, or a remote backend"
    )

    def __init__(self, *args: Any, folder: Path | None = None, system: str = OWN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._folder_given = folder
        self._system_name = system

    @property
    def system(self) -> System:
        return find_system(self._system_name)

    @cached_property
    def folder(self) -> Path:
        return self._folder_given or _configured_folder()

    @cached_property
    def host(self) -> HostFacts:
        return HostFacts.read()

    def scope(self) -> str:
        return host_id()

    # --- submit

    def render(self, spec: StepSpec) -> dict[str, object]:
        problems = list(impossible(spec, self.host))
        if problems and not spec.is_overridden:
            raise UnsupportedError("; ".join(problems))
        settings, resources = self.settings_of(spec), spec.resources
        argv = runner_argv(
            settings.python or self.host.python, spec, inputs=files.INPUT, outputs=files.OUTPUT,
            mounts=THIS_HOST, receipt_limit=RECEIPT_LIMIT_BYTES,
        )  # fmt: skip
        cpus, memory = resources.cpu_count or 0, resources.memory_bytes or 0
        return {
            "name": spec.name,
            "nonce": spec.nonce,
            "labels": dict(spec.labels),
            "result_uri": spec.result_uri,
            "argv": argv,
            "env": {**self._hidden(spec), **step_env(spec)},
            "system": self._system_name,
            "gpus": chosen_gpus(spec, self.host),
            "limits": {
                "cpu_count": math.ceil(cpus) if 0 < cpus <= self.host.cpu_count else None,
                "memory_bytes": memory if 0 < memory <= self.host.memory_bytes else None,
                "log_bytes": parse_size(settings.log_limit),
                "timeout_s": spec.timeout_s,
                "grace_period_s": settings.grace_period_s,
            },
        }

    def _hidden(self, spec: StepSpec) -> dict[str, str]:
        """Return the variable that hides all GPUs from a step without ``gpu_count``."""
        return {VISIBLE: ""} if self.host.has_gpus and not spec.resources.gpu_count else {}

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        request = self.render(spec)
        self._check_now(spec)
        own_folder(self.folder)
        folder = JobFolder(self.folder / spec.name)
        folder.create(request, input_files(payload, spec))
        if not self._is_own(folder, self._handle(folder, spec.nonce)):
            refuse_name("local job", spec.name)
        folder.start(step_environment(os.environ, is_own_python=self.settings_of(spec).python is None))
        return self._handle(folder)

    def lookup(self, spec: StepSpec) -> JobHandle | None:
        folder = JobFolder(self.folder / spec.name)
        if not self._is_own(folder, self._handle(folder, spec.nonce)):
            return None
        return None if folder.withdraw() else self._handle(folder)

    def _handle(self, folder: JobFolder, nonce: str = "") -> JobHandle:
        return JobHandle(
            backend=self.backend,
            conn_id=self.conn_id,
            scope=self.scope(),
            id=folder.name,
            name=folder.name,
            detail={"folder": str(folder.path.parent)},
            nonce=nonce,
        )

    def _check_now(self, spec: StepSpec) -> None:
        """Check the demands that depend on the present state of the host.

        Log a warning with every demand that an overridden step does not get.

        :raises UnsupportedError: the disk or the shared memory has too little free space, or the operating
            system is neither Linux nor macOS
        :raises StepConfigError: ``LocalSettings.python`` is not an executable file
        """
        if sys.platform not in SUPPORTED:
            raise UnsupportedError(f"the local backend needs Linux or macOS, and this is {sys.platform}")
        python = self.settings_of(spec).python
        if python is not None and not is_program(python):
            raise StepConfigError(
                f"settings python={python!r} is not an executable file; write the absolute path of a Python"
            )
        problems = list(no_room(spec, self.folder))
        if problems and not spec.is_overridden:
            raise UnsupportedError("; ".join(problems))
        problems += impossible(spec, self.host)
        problems += [
            f"{name} is not enforced on this operating system"
            for name in self.system.UNENFORCED
            if getattr(spec.resources, name) is not None
        ]
        if problems:
            self.log.warning("This step runs on this host without what it asks for: %s", "; ".join(problems))

    # --- watch

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        return {handle: self._status(self._job(handle)) for handle in handles}

    def _status(self, job: JobFolder | None) -> JobStatus:
        if job is None:
            return JobStatus(JobState.GONE)
        try:
            state = job.state()
        except IntegrityError as error:
            return self._damaged(job, error)
        if state is None:
            return JobStatus(JobState.PENDING if job.path.exists() else JobState.GONE)
        if not files.is_over(state) and not job.is_supervised():
            # The supervisor writes the last state before it releases the lock. So what is read now is final.
            state = job.state() or state
            if not files.is_over(state) and job.finish(_lost(job, state)):
                state = job.state() or state
        return self._status_from(state)

    def _damaged(self, job: JobFolder, error: IntegrityError) -> JobStatus:
        """Return the status of a job whose ``state.json`` is damaged.

        A supervisor that lives will write the file again, so the job counts as running. Without a supervisor
        the job has failed.
        """
        if not job.is_supervised():
            summary = f"{error}; the outcome of the step is lost, because its digest was in this file"
            failure: wire.Failure = {"category": Category.INFRA.value, "summary": summary}
            job.finish({"state": files.FAILED, "failure": failure})
            if (state := job.state()) is not None:
                return self._status_from(state)
        return JobStatus(JobState.RUNNING, native="damaged")

    @staticmethod
    def _status_from(state: State) -> JobStatus:
        return JobStatus(
            _STATES.of(state["state"]),
            failure=_failure(state["failure"]),
            native=state["state"],
            started_at=state.get("started_at"),
            finished_at=state["finished_at"],
            usage=state.get("usage") or {},
        )

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        limit = min(LOG_BYTES_PER_JOB, LOG_BYTES_PER_CALL // max(1, len(cursors)))
        jobs = ((handle, self._job(handle), cursor) for handle, cursor in cursors.items())
        chunks = ((handle, job.read_log(cursor, limit) if job else None) for handle, job, cursor in jobs)
        return {handle: chunk for handle, chunk in chunks if chunk is not None}

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        job = self._job(handle)
        return job.read_tail(count, since) if job is not None else LogChunk([], since)

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        job = self._job(handle)
        if job is None:
            raise OutcomeLostError(f"{handle} left no outcome: another job has its name now")
        state, request = job.state() or {}, job.request() or {}
        data = state.get("receipt") if request else None
        receipt = Receipt.from_json(data, f"the receipt of {handle}") if data is not None else None
        path = job.path / files.OUTPUT / OUTCOME
        uri = request.get("result_uri", "")
        return report(handle, receipt, uri, lambda _: _read(path), place=str(job.path))

    # --- end

    def cancel(self, handle: JobHandle) -> None:
        job = self._job(handle)
        if job is None:
            return
        try:
            state = job.state()
        except IntegrityError:
            state = None  # the job may still run
        if not job.path.exists() or (state is not None and files.is_over(state)):
            return
        try:
            (job.path / files.CANCEL).touch()
        except FileNotFoundError:
            return  # another process has deleted the job
        job.wake_supervisor()
        if not job.is_supervised():
            job.finish({"state": files.CANCELLED})

    def delete(self, handle: JobHandle) -> None:
        job = self._job(handle)
        if job is None:
            return
        if not self._status(job).state.is_terminal and not job.withdraw():
            raise StepConfigError(f"{handle} is still running; cancel it before it is deleted")
        job.remove()

    def find(self, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        for job in JobFolder.all(self.folder):
            try:
                request, created_at = job.request(), job.created_at()
            except IntegrityError as error:
                self.log.warning("Cannot tell which task a local job belongs to: %s", error)
                continue
            if request is not None and matches(request["labels"], labels):
                yield FoundJob(self._handle(job), request["labels"], created_at)

    def _job(self, handle: JobHandle) -> JobFolder | None:
        """Return the folder of a job; ``None``: the folder is that of another job."""
        self.check_scope(handle)
        folder = self.handle_detail(handle, {"folder": TEXT})["folder"]
        try:
            job = JobFolder(Path(folder) / handle.id)
        except ValueError as error:
            raise IntegrityError(f"the handle of a local job is damaged: {error}") from error
        if job.name != handle.id:  # the id contains a path that leads elsewhere
            raise IntegrityError(
                f"the handle of a local job is damaged: {handle.id!r} is not the name of a job"
            )
        return job if self._is_own(job, handle) else None

    def _is_own(self, job: JobFolder, handle: JobHandle) -> bool:
        """Return whether a folder, if it exists, is that of the handle's job.

        Without a readable request, only a folder below the configured one counts.
        """
        try:
            request = job.request()
        except IntegrityError:
            request = None
        if request is None and not job.path.exists():
            return True
        is_near = job.path.parent == self.folder
        nonce = request["nonce"] if request is not None else None if is_near else ""
        return is_same_job(handle, nonce=nonce)

    # --- check

    def check(self) -> Iterator[Finding]:
        gpu_fix = "fix the driver; steps without GPUs run nevertheless"
        return run_checks(
            self.api_error,
            [
                Check("host", self._check_host, "run the local backend on Linux or macOS", is_needed=True),
                Check("gpus", self._check_gpus, gpu_fix),
                Check("folder", lambda: check_folder(self.folder), "set [stepop] local_folder"),
                Check("python", self._check_python, "name an interpreter in the settings: python="),
            ],
        )

    def _check_host(self) -> Iterator[Finding]:
        if sys.platform not in SUPPORTED:
            yield Finding(False, "host", f"this is {sys.platform}", "run the local backend on Linux or macOS")
            return
        memory = shown_size(self.host.memory_bytes)
        yield Finding(True, "host", f"{self.scope()}: {self.host.cpu_count} CPUs, {memory} of memory")
        if self.system.UNENFORCED:
            names = ", ".join(self.system.UNENFORCED)
            yield Finding(True, "limits", f"not enforced on this operating system: {names}")

    def _check_gpus(self) -> Iterator[Finding]:
        yield Finding(True, "gpus", f"steps may have {describe(self.host.gpus)}")
        if self.host.gpus:
            yield from check_lock_folder(LOCK_FOLDER)

    def _check_python(self) -> Iterator[Finding]:
        yield Finding(True, "python", f"steps run with {self.host.python} unless settings name another one")


def _configured_folder() -> Path:
    from airflow.sdk.configuration import conf

    folder = conf.get("stepop", "local_folder", fallback="")
    return Path(folder).expanduser().absolute() if folder else airflow_folder("jobs")


def _lost(job: JobFolder, state: State) -> State:
    is_same_boot = state.get("boot_id") == job.system().boot_id()
    why = "the supervisor of the job was killed" if is_same_boot else "the host restarted during the job"
    failure: wire.Failure = {
        "category": Category.INFRA.value,
        "summary": f"{why}; nothing of the step runs any more, and its outcome is lost",
        "native_reason": job.supervisor_error(),
    }
    return {**state, "state": files.FAILED, "failure": failure}


def _failure(data: wire.Failure | None) -> Failure | None:
    return None if data is None else Failure.from_json(data)


def _read(path: Path) -> bytes:
    """Return the bytes of an outcome's file; of one that is too large, more than an outcome may have."""
    with files.opened_file(path) as file:
        return file.read(OUTCOME_BYTES + 1)
