"""The ``modal`` backend: a step runs in a sandbox of Modal. The worker, the triggerer and the CLI call it.

``submit`` puts the step's input into the job's folder of a Volume, and then creates a sandbox under the name
in the record. ``request.py`` builds the request, ``objects.py`` its objects. ``sandboxes.py`` has the states
of the sandboxes. The outcome comes back as a file of the Volume. The receipt that proves it comes back as a
line of the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from airflow_stepop.connections.modal import account_of
from airflow_stepop.core.stored_json import NUMBER, TEXT
from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained
from airflow_stepop.hooks.common.checks import run_checks
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.common.staging import remove_sealed, stage, unstage
from airflow_stepop.hooks.common.submission import create_once
from airflow_stepop.hooks.modal.calls import api_error, submit_error
from airflow_stepop.hooks.modal.checkpoints import checkpoint_file
from airflow_stepop.hooks.modal.checks import checks
from airflow_stepop.hooks.modal.own_secret import own_secret, secret_bytes
from airflow_stepop.hooks.modal.prices import least_cost
from airflow_stepop.hooks.modal.request import (
    IN,
    Submitted,
    checkpoint_folder,
    folder_of_job,
    job_folder,
    sandbox_request,
)
from airflow_stepop.hooks.modal.sandboxes import Job, Sandboxes, is_own_folder, own_folder
from airflow_stepop.hooks.modal.settings import ModalSettings
from airflow_stepop.hooks.modal.states import STATES
from airflow_stepop.job import (
    Cursor,
    Finding,
    FoundJob,
    JobHandle,
    JobState,
    JobStatus,
    Leftover,
    LogChunk,
    OutcomeReport,
    Payload,
    StepSpec,
)
from airflow_stepop.runner.protocol import CHECKPOINT, SECRETS
from airflow_stepop.stores.folder import NO_MOUNTS

if TYPE_CHECKING:
    from airflow_stepop.connections.modal import ModalAccount
    from airflow_stepop.hooks.common.input_files import InputFile
    from airflow_stepop.hooks.modal.private import Seen
    from airflow_stepop.hooks.settings import BackendSettings

SHOWN_S = 10.0  # so late, a new sandbox may be found by its name
NOTHING: Mapping[str, Any] = MappingProxyType({})
# of what is known only later, for the check of a request: values of the same sizes
_SAMPLE: dict[str, Any] = {"runner_digest": "0" * 64, "seal": "0" * 64, "input_folder": f"{IN}/{'0' * 32}"}


class ModalStepHook(StepHook[ModalSettings]):
    """Runs steps in sandboxes of Modal.

    :param conn_id: connection of the type ``modal``; by default ``modal_default``
    """

    backend = "modal"
    settings_model = ModalSettings
    default_conn_id = "modal_default"
    inline_limit = 256 << 20
    poll_interval_s = 3.0
    stop_limit_s = 180.0  # a sandbox goes on for about 35 s after it was told to end
    state_table = STATES

    # -- clients

    @cached_property
    def _account(self) -> ModalAccount:
        return account_of(self.connection)

    @cached_property
    def _known(self) -> dict[tuple[str, str], Sandboxes]:
        return {}

    def _in(self, environment: str, app_name: str) -> Sandboxes:
        """Return what this process knows of an App."""
        key = environment or self._account.environment, app_name
        if key not in self._known:
            self._known[key] = Sandboxes(self._account, *key)
        return self._known[key]

    def _for(self, settings: ModalSettings) -> Sandboxes:
        return self._in(settings.environment or "", settings.app_name)

    def _of(self, handle: JobHandle) -> Sandboxes:
        detail = self._detail(handle)
        return self._in(detail["environment"], detail["app_name"])

    def scope(self) -> str:
        return self._for(ModalSettings()).scope

    # -- submit

    def render(self, spec: StepSpec) -> dict[str, Any]:
        environment = self._account.environment
        return sandbox_request(spec, self.settings_of(spec), Submitted(spec.digest, environment=environment))

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        settings = self.settings_of(spec)
        sandbox_request(spec, settings, Submitted(payload.digest, **_SAMPLE))  # a refusal comes first
        here, submitted_at = self._for(settings), time.time()
        with explained(submit_error, self._submit_errors(here)):
            found = here.earlier(spec.name, spec.nonce, job_folder(spec))
            if found is None:
                found = self._create(here, spec, payload)
        seen = replace(found, name=spec.name, created_at=submitted_at)
        return self._handle(here, seen, spec.labels, spec.result_uri, self._known_of(spec))

    def _create(self, here: Sandboxes, spec: StepSpec, payload: Payload) -> Seen:
        """Write the job's input into the Volume, and create its sandbox."""
        files = self._input_files(here, spec, payload)
        key, folder = seal_key(spec.nonce), f"{job_folder(spec)}/{IN}"
        values = own_secret(payload.secrets)
        if values:
            del files[SECRETS]
        staged = stage(here.service.files, folder, files, key)
        submitted = Submitted(
            payload.digest,
            staged.runner_digest,
            environment=here.service.environment,
            seal=key.hex(),
            secret_names=sorted(values),
            secret_bytes=secret_bytes(values),
            input_folder=f"{IN}/{staged.uri.rpartition('/')[2]}",
        )
        request = sandbox_request(spec, self.settings_of(spec), submitted)
        return create_once(
            find=lambda: here.service.find(spec.name, spec.nonce),
            create=lambda: here.service.create(request, values),
            classify=self.api_error,
            taken_lag_s=SHOWN_S,
        )

    def _input_files(self, here: Sandboxes, spec: StepSpec, payload: Payload) -> dict[str, InputFile]:
        features = payload.features | {"mounted", "sealed", "synced", "once"}
        if not spec.checkpoint_uri:
            return input_files(replace(payload, features=features), spec, NO_MOUNTS)
        payload = replace(payload, features=features | {"snapshots"})
        files = input_files(payload, replace(spec, checkpoint_uri=""), NO_MOUNTS)
        return {**files, CHECKPOINT: checkpoint_file(spec, here.service.checkpoints)}

    def _submit_errors(self, here: Sandboxes) -> Mapping[Trouble, str]:
        place = f"Modal, in {here.scope}"
        return {
            Trouble.QUOTA: place,
            Trouble.DENIED: f"{place}, does not let Airflow do this (see airflow stepop check)",
            Trouble.NOT_FOUND: f"{place}, does not find what the step needs",
            Trouble.INVALID: f"{place}, refused the sandbox",
        }

    def lookup(self, spec: StepSpec) -> JobHandle | None:
        here = self._for(self.settings_of(spec))
        found = here.found_job(spec.name, spec.nonce, job_folder(spec))
        return self._handle(here, *found, self._known_of(spec)) if found is not None else None

    def _known_of(self, spec: StepSpec) -> dict[str, Any]:
        """Return what a handle has if its step is known: its checkpoints, and what it costs by the second."""
        usd_per_s = least_cost(self.render(spec), 1.0)
        return {
            **({"checkpoints": checkpoint_folder(spec)} if spec.checkpoint_uri else {}),
            **({"usd_per_s": usd_per_s} if usd_per_s is not None else {}),
        }

    def _handle(
        self,
        here: Sandboxes,
        seen: Seen,
        labels: Mapping[str, str],
        results: str,
        known: Mapping[str, Any] = NOTHING,
    ) -> JobHandle:
        detail = {
            "environment": here.service.environment,
            "app_name": here.service.app_name,
            "folder": folder_of_job(labels, seen.name, labels["nonce"]),
            "results": results,
            "nonce": labels["nonce"],
            "submitted_at": seen.created_at or time.time(),
            **known,
        }
        return JobHandle(self.backend, self.used_conn_id, here.scope, seen.id, seen.name, detail)

    def _detail(self, handle: JobHandle) -> dict[str, Any]:
        texts = ("environment", "app_name", "folder", "results", "nonce")
        required = {**dict.fromkeys(texts, TEXT), "submitted_at": NUMBER}
        return self.handle_detail(handle, required, {"checkpoints": TEXT, "usd_per_s": NUMBER})

    def _job(self, handle: JobHandle) -> Job:
        detail = self._detail(handle)
        return Job(
            handle.id,
            handle.name,
            nonce=detail["nonce"],
            folder=detail["folder"],
            begin=detail["submitted_at"],
            usd_per_s=detail.get("usd_per_s", 0.0),
        )

    # -- status

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found: dict[JobHandle, JobStatus] = {}
        for here, some in self._by_app(handles):
            statuses = here.statuses([self._job(handle) for handle in some])
            found |= {handle: self._checked(here, handle, statuses[handle.id]) for handle in some}
        return found

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        here = self._of(handle)
        return self._checked(here, handle, here.status_now(self._job(handle)))

    def _checked(self, here: Sandboxes, handle: JobHandle, status: JobStatus | None) -> JobStatus:
        """Return a status; a job is gone only if this is its own workspace and environment.

        :param status: ``None``: the service does not know the sandbox
        :raises StepConfigError: it is another one: the token or MODAL_ENVIRONMENT has changed
        """
        if status is None or status.state is JobState.GONE:
            self.check_scope(handle, here.scope)
        return status or JobStatus(JobState.GONE)

    def _by_app(self, handles: Iterable[JobHandle]) -> Iterable[tuple[Sandboxes, list[JobHandle]]]:
        found: dict[Sandboxes, list[JobHandle]] = {}
        for handle in handles:
            found.setdefault(self._of(handle), []).append(handle)
        return found.items()

    # -- outcome and logs

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        here, job = self._of(handle), self._job(handle)
        status = here.status_now(job)
        if status is None or status.state is JobState.GONE:
            self._checked(here, handle, status)
            raise OutcomeLostError(f"{handle} left no outcome: the job is gone")
        return here.outcome(handle, job, self._detail(handle)["results"], status)

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        found: dict[JobHandle, LogChunk] = {}
        for here, handles in self._by_app(cursors):
            read = here.logs({self._job(handle): cursors[handle] for handle in handles})
            found |= {handle: read[handle.id] for handle in handles if handle.id in read}
        return found

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        return self._of(handle).tail(self._job(handle), count, since)

    # -- the end

    def cancel(self, handle: JobHandle) -> None:
        self._of(handle).cancel(self._job(handle))

    def delete(self, handle: JobHandle) -> None:
        here, job = self._of(handle), self._job(handle)
        saved = self._detail(handle).get("checkpoints")
        if saved and here.has_succeeded(job):  # no later try needs them
            here.service.checkpoints.delete_folder(saved)
        unstage(here.service.files, own_folder(job))
        here.forget(job)

    def delete_secrets(self, handle: JobHandle) -> None:
        job = self._job(handle)
        if is_own_folder(job):
            remove_sealed(self._of(handle).service.files, job.folder)

    def leftovers(self) -> Iterator[Leftover]:
        return self._for(ModalSettings()).leftovers()

    def api_error(self, error: Exception) -> ApiError:
        return api_error(error)

    def find(self, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        return self._found(self._for(ModalSettings()), labels)

    def _found(self, here: Sandboxes, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        for seen, own, results in here.found(labels):
            yield FoundJob(self._handle(here, seen, own, results), own, seen.created_at or 0.0)

    def find_for(self, settings: BackendSettings, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        here = self._for(cast(ModalSettings, settings))
        return () if here is self._for(ModalSettings()) else self._found(here, labels)

    def location_of(self, handle: JobHandle) -> Mapping[str, object]:
        detail = self._detail(handle)
        return {"environment": detail["environment"] or None, "app_name": detail["app_name"]}

    def link(self, handle: JobHandle) -> str | None:
        """Return the page of the sandbox in Modal's dashboard."""
        return f"https://modal.com/id/{handle.id}"

    def check(self) -> Iterable[Finding]:
        return self.check_for(ModalSettings())

    def check_for(self, settings: BackendSettings) -> Iterable[Finding]:
        here = self._for(cast(ModalSettings, settings))
        return run_checks(self.api_error, checks(here.service))
