"""The ``sagemaker`` backend: a step runs as a SageMaker training job in the user's account.

The worker, the triggerer and the CLI call :class:`SageMakerStepHook`. ``submit`` stages the step's input in the
bucket of its store and then creates the job, under the name in the record. ``request.py`` builds the request.
``status.py`` derives the status of a step from the records of its job. The result comes back as the job's
output; the receipt that proves it as a line of the log, or at the front of the reason of a failure.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from airflow_stepop.connections.aws_clients import AwsClients
from airflow_stepop.connections.defaults import ConnectionDefaults, read_defaults
from airflow_stepop.core.stored_json import NUMBER, TEXT
from airflow_stepop.exceptions import OutcomeLostError, StepConfigError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained
from airflow_stepop.hooks.common.checks import run_checks
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.listing import Listing
from airflow_stepop.hooks.common.log_cursors import LogEvent, visible
from airflow_stepop.hooks.common.rate_limit import RateLimit
from airflow_stepop.hooks.common.receipts import Receipt, find_receipt, report
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.common.staging import stage, unstage
from airflow_stepop.hooks.common.submission import create_once
from airflow_stepop.hooks.sagemaker import request as requests
from airflow_stepop.hooks.sagemaker.checks import Subject, checks
from airflow_stepop.hooks.sagemaker.failures import receipt_in
from airflow_stepop.hooks.sagemaker.job_logs import JobLogs
from airflow_stepop.hooks.sagemaker.machines import Choice, choose, machines
from airflow_stepop.hooks.sagemaker.outcome import Output
from airflow_stepop.hooks.sagemaker.places import (
    CHECKPOINTS,
    Places,
    is_s3,
    parts_of,
    places_of,
    write_parts_manifest,
)
from airflow_stepop.hooks.sagemaker.service import NAME_PART, TrainingJobs, api_error, submit_error
from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
from airflow_stepop.hooks.sagemaker.states import STATES
from airflow_stepop.hooks.sagemaker.status import status_of
from airflow_stepop.job import (
    Cursor,
    Finding,
    FoundJob,
    JobHandle,
    JobState,
    JobStatus,
    LogChunk,
    LogLine,
    OutcomeReport,
    Payload,
    StepSpec,
)
from airflow_stepop.runner.protocol import ENV_NONCE
from airflow_stepop.stores.configured import configured_store, locate

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.machines import Machines
    from airflow_stepop.hooks.settings import BackendSettings

KEPT_S = 31 * 86400.0  # jobs older than this are not found: a job lasts at most 30 days
JOB_NAME = re.compile(rf"{NAME_PART}([a-z0-9-]+-)?[0-9a-f]{{12}}")  # see core/naming.py
CREATES_PER_S = 1.0  # the service's default limit for CreateTrainingJob, of the account and region
OUTCOME_BYTES = 64 << 20  # of outcome.json
CLOCKS_S = 600.0  # how much the clocks of this host and of the service may differ


class SageMakerStepHook(StepHook[SageMakerSettings]):
    """Runs steps as SageMaker training jobs.

    :param conn_id: connection of Airflow's type ``aws``; by default ``aws_default``
    """

    backend = "sagemaker"
    settings_model = SageMakerSettings
    default_conn_id = "aws_default"
    inline_limit = 64 << 20
    poll_interval_s = 10.0
    log_reads_per_second = 100
    state_table = STATES

    # -- clients

    @cached_property
    def _clients(self) -> dict[str | None, AwsClients]:
        return {}

    def _in(self, region: str | None) -> AwsClients:
        """Return the clients of a region; ``None``: the connection's own."""
        if region not in self._clients:
            self._clients[region] = AwsClients(self.connection, region)
        return self._clients[region]

    def _jobs(self, region: str | None) -> TrainingJobs:
        return TrainingJobs(self._in(region))

    def scope(self) -> str:
        clients = self._in(None)
        return f"{clients.account}/{clients.region}"

    def machines(self) -> Machines:
        return machines()

    # -- submit

    def render(self, spec: StepSpec) -> dict[str, Any]:
        settings = self.settings_of(spec)
        places = places_of(spec, requests.may_restart(settings))
        submitted = requests.Submitted(spec.digest, f"{places.native(places.folder)}/<digest of the input>")
        region, choice = self._in(settings.region_name).region, choose(settings, spec.resources)
        return requests.training_job(spec, settings, places, submitted, choice, region)

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        self.render(spec)  # raises what no submit can cure, before anything is written
        settings = self.settings_of(spec)
        clients, choice = self._in(settings.region_name), choose(settings, spec.resources, _size(payload))
        places = places_of(spec, requests.may_restart(settings))
        self._log_choice(spec, settings, clients.region, choice)
        submitted = self._stage(spec, payload, places)
        if not str(settings.role).startswith("arn:"):
            submitted = replace(submitted, account=clients.account)
        body = requests.training_job(spec, settings, places, submitted, choice, clients.region)
        jobs, submitted_at = TrainingJobs(clients), time.time()
        with explained(submit_error, self._submit_errors(clients)):
            arn = create_once(
                find=lambda: _arn_of(_own(jobs.describe(spec.name), spec)),
                create=lambda: self._create(jobs, body),
                classify=self.api_error,
            )
        return self._handle(arn, spec.name, places.result_uri, places.folder_uri, submitted_at)

    def _log_choice(self, spec: StepSpec, settings: SageMakerSettings, region: str, choice: Choice) -> None:
        image = requests.image_of(spec, settings, region, choice)
        for text in filter(None, (choice.message, image.message)):
            self.log.info("SageMaker: %s", text)
        for warning in choice.warnings:
            self.log.warning("SageMaker: %s", warning)

    def _stage(self, spec: StepSpec, payload: Payload, places: Places) -> requests.Submitted:
        """Write the job's input into the bucket."""
        features = {"mounted", "sealed", *(["once"] if places.checkpoints else [])}
        parts, key = parts_of(spec, payload, places), seal_key(spec.nonce)
        files = input_files(
            replace(payload, features=payload.features | features),
            spec,
            parts,
            has_output_folder=True,
            may_restart=bool(places.checkpoints),
            checkpoint_folder=CHECKPOINTS,
        )
        staged = stage(places.store, places.folder, files, key)
        return requests.Submitted(
            payload.digest,
            places.native(places.store.path_of(staged.uri) or ""),
            write_parts_manifest(parts, places),
            staged.runner_digest,
            key.hex(),
        )

    def _create(self, jobs: TrainingJobs, body: requests.Json) -> str:
        """Create the job; if the caller must not set tags, without them."""
        # The name of the limit needs no account: keys of two accounts on one host only wait a little longer
        limit = RateLimit(f"sagemaker-create-{jobs.clients.region}", CREATES_PER_S)
        limit.wait()
        try:
            return jobs.create(body)
        except Exception as error:
            found = self.api_error(error)
            if found.kind is not Trouble.DENIED or "sagemaker:AddTags" not in found.message:
                raise
            self.log.warning(
                "The job has no tags, because the caller must not set them (%s). Allow sagemaker:AddTags to have "
                "the labels of a step in cost reports",
                found.message,
            )
        limit.wait()
        return jobs.create({name: value for name, value in body.items() if name != "Tags"})

    def _submit_errors(self, clients: AwsClients) -> Mapping[Trouble, str]:
        place = f"SageMaker in {clients.region}"
        return {
            Trouble.QUOTA: place,
            Trouble.DENIED: f"{place} does not let Airflow do this (see airflow stepop check)",
            Trouble.NOT_FOUND: f"{place} does not find what the job needs",
            Trouble.INVALID: f"{place} refused the training job",
        }

    def lookup(self, spec: StepSpec) -> JobHandle | None:
        jobs = self._jobs(self.settings_of(spec).region_name)
        job = _own(jobs.describe(spec.name), spec)
        if job is None or jobs.is_deleted(str(job["TrainingJobArn"])):
            return None
        return self._handle_of(job)

    def _handle_of(self, job: requests.Json, about: requests.Json | None = None) -> JobHandle:
        """Return the handle of a job.

        :param job: a whole record, or a summary with ``about``
        """
        known = about or requests.about(job.get("Environment") or {}) or {}
        results, inputs = (str(known.get(key, "")) for key in ("results", "inputs"))
        created_at = job["CreationTime"].timestamp()
        return self._handle(
            str(job["TrainingJobArn"]), str(job["TrainingJobName"]), results, inputs, created_at
        )

    def _handle(self, arn: str, name: str, results: str, inputs: str, submitted_at: float) -> JobHandle:
        _, _, _, region, account, _ = arn.split(":", 5)
        detail = {"results": results, "inputs": inputs, "submitted_at": submitted_at}
        return JobHandle(self.backend, self.used_conn_id, f"{account}/{region}", name, name, detail)

    # -- status

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found: dict[JobHandle, JobStatus] = {}
        by_region: dict[str, list[JobHandle]] = {}
        for handle in handles:
            by_region.setdefault(_region(handle), []).append(handle)
        for region, some in by_region.items():
            submits = [self._detail(handle)["submitted_at"] for handle in some]
            views = self._listing(region).looks([handle.name for handle in some], min(submits) - CLOCKS_S)
            for handle in some:
                found[handle] = self._status(handle, views[handle.name])
        return found

    def _detail(self, handle: JobHandle) -> dict[str, Any]:
        return self.handle_detail(handle, {"results": TEXT, "inputs": TEXT, "submitted_at": NUMBER})

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        job = self._jobs(_region(handle)).describe(handle.name)
        return self._status(handle, job)

    def _status(self, handle: JobHandle, job: requests.Json | None) -> JobStatus:
        if job is None:
            self._check_account(handle)
            return JobStatus(JobState.GONE)
        status = status_of(job)
        if not status.state.is_terminal:
            self._seen_running.add(handle.name)
        elif self._is_deleted(handle, job):
            return JobStatus(JobState.GONE, native="deleted")
        return status

    def _is_deleted(self, handle: JobHandle, job: requests.Json) -> bool:
        """Return whether :meth:`delete` was called for a terminal job.

        A job that this hook has seen running was not: only terminal jobs are deleted, after their collection.
        """
        if handle.name in self._seen_running:
            return False
        return self._jobs(_region(handle)).is_deleted(str(job["TrainingJobArn"]))

    @cached_property
    def _seen_running(self) -> set[str]:
        return set()

    def _check_account(self, handle: JobHandle) -> None:
        region = _region(handle)
        self.check_scope(handle, f"{self._in(region).account}/{region}")

    def _listing(self, region: str) -> Listing[requests.Json]:
        if region not in self._listings:
            jobs = self._jobs(region)
            self._listings[region] = Listing(
                partial(_changes, jobs), jobs.describe, is_over=_is_over, changed_at=_changed_at
            )
        return self._listings[region]

    @cached_property
    def _listings(self) -> dict[str, Listing[requests.Json]]:
        return {}

    # -- outcome

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        jobs = self._jobs(_region(handle))
        job = jobs.describe(handle.name)
        if job is None:
            self._check_account(handle)
        if job is None or self._is_deleted(handle, job):
            raise OutcomeLostError(f"{handle} left no outcome: the job is gone")
        status = status_of(job)
        if status.state is JobState.FAILED and status.failure is not None and not _has_run(job):
            raise OutcomeLostError(f"{handle} left no outcome: its container did not run")
        receipt = receipt_in(str(job.get("FailureReason", ""))) or self._receipt_in_log(handle)
        output = Output(self._detail(handle)["results"])
        base_uri = output.base_uri()
        if base_uri is None:
            raise OutcomeLostError(f"{handle} left no outcome below {output.result_uri}/output")
        return report(handle, receipt, base_uri, lambda _: output.read(base_uri, OUTCOME_BYTES))

    def _receipt_in_log(self, handle: JobHandle) -> Receipt | None:
        logs = self._logs(_region(handle))
        events, _ = logs.last(handle.name, RECEIPT_LINES)
        return find_receipt(event.text for event in events)

    # -- logs

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        found: dict[JobHandle, LogChunk] = {}
        by_region: dict[str, dict[str, JobHandle]] = {}
        for handle in cursors:
            by_region.setdefault(_region(handle), {})[handle.name] = handle
        for region, handles in by_region.items():
            wanted = {name: cursors[handle] for name, handle in handles.items()}
            while wanted:
                read = self._logs(region).read(wanted)
                wanted = {}
                for name, (events, cursor) in read.items():
                    if lines := _lines(events):
                        found[handles[name]] = LogChunk(lines, cursor)
                    else:  # nothing for people, and perhaps more behind it
                        wanted[name] = cursor
        return found

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        job = self._jobs(_region(handle)).describe(handle.name)
        ended_at = status_of(job).finished_at if job is not None else None
        # the receipt is one of the last lines, and is not shown
        events, cursor = self._logs(_region(handle)).last(handle.name, count + 1, since, ended_at)
        return LogChunk(_lines(events)[-count:], cursor)

    def _logs(self, region: str) -> JobLogs:
        return self._known_logs.setdefault(region, JobLogs(self._in(region)))

    @cached_property
    def _known_logs(self) -> dict[str, JobLogs]:
        return {}

    # -- the end

    def cancel(self, handle: JobHandle) -> None:
        self._jobs(_region(handle)).stop(handle.name)

    def delete(self, handle: JobHandle) -> None:
        store, folder = locate(self._detail(handle)["inputs"])
        unstage(store, folder)
        self._seen_running.discard(handle.name)
        jobs = self._jobs(_region(handle))
        job = jobs.describe(handle.name)
        if job is None:
            return
        with explained(self.api_error, {Trouble.DENIED: f"{handle} cannot be marked as deleted"}):
            jobs.mark_as_deleted(str(job["TrainingJobArn"]))

    def api_error(self, error: Exception) -> ApiError:
        return api_error(error)

    def find(self, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        jobs, now = self._jobs(None), time.time()
        nonce = labels.get("nonce")
        part = hashlib.sha256(nonce.encode()).hexdigest()[:12] if nonce else NAME_PART
        for summary in jobs.created_since(now - KEPT_S, part):
            name = str(summary["TrainingJobName"])
            if not JOB_NAME.fullmatch(name):
                continue
            known = self._labels_of(jobs, name)
            if known is None or not matches(known["labels"], labels):
                continue
            is_over = status_of(summary).state.is_terminal
            arn = str(summary["TrainingJobArn"])
            if is_over and jobs.is_deleted(arn):
                continue
            handle = self._handle_of(summary, known)
            yield FoundJob(handle, known["labels"], summary["CreationTime"].timestamp())

    def _labels_of(self, jobs: TrainingJobs, name: str) -> requests.Json | None:
        """Return what the job says about itself; the first look at a name sends a request."""
        if name not in self._described:
            job = jobs.describe(name) or {}
            self._described[name] = requests.about(job.get("Environment") or {})
        return self._described[name]

    @cached_property
    def _described(self) -> dict[str, requests.Json | None]:
        return {}

    def link(self, handle: JobHandle) -> str | None:
        """Return the job's page in the AWS console."""
        region = _region(handle)
        domains = {"cn-": "amazonaws.cn", "us-gov-": "amazonaws-us-gov.com"}
        domain = next((name for start, name in domains.items() if region.startswith(start)), "aws.amazon.com")
        host = f"{region}.console.{domain}" if domain != "amazonaws-us-gov.com" else f"console.{domain}"
        return f"https://{host}/sagemaker/home?region={region}#/jobs/{handle.name}"

    def check(self) -> Iterable[Finding]:
        return self.check_for(SageMakerSettings())

    def check_for(self, settings: BackendSettings) -> Iterable[Finding]:
        settings = cast(SageMakerSettings, settings)
        defaults = read_defaults(self.connection) if self.connection is not None else ConnectionDefaults()
        store = configured_store(defaults.store)
        subject = Subject(
            self._in(settings.region_name),
            settings,
            defaults.image,
            store if is_s3(store) else None,
        )
        return run_checks(self.api_error, checks(subject))


RECEIPT_LINES = 50  # last lines that are searched for the receipt


def _lines(events: Sequence[LogEvent]) -> list[LogLine]:
    return visible((event.time_ms / 1000, event.text) for event in events)


def _region(handle: JobHandle) -> str:
    return handle.scope.partition("/")[2]


def _has_run(job: Mapping[str, Any]) -> bool:
    """Return whether the container of a job has run: only then it can have left an outcome."""
    words = {one.get("Status") for one in job.get("SecondaryStatusTransitions") or []}
    return "Training" in words


def _changes(jobs: TrainingJobs, since: float | None) -> Iterator[tuple[str, requests.Json, float]]:
    for summary in jobs.changed_since(since):
        yield str(summary["TrainingJobName"]), summary, _changed_at(summary)


def _changed_at(job: requests.Json) -> float:
    return float(job["LastModifiedTime"].timestamp())


def _is_over(job: requests.Json) -> bool:
    return status_of(job).state.is_terminal


def _own(job: requests.Json | None, spec: StepSpec) -> requests.Json | None:
    """Return the job if it is that of the step.

    :raises StepConfigError: a job of this name belongs to somebody else
    """
    if job is not None and (job.get("Environment") or {}).get(ENV_NONCE) != spec.nonce:
        raise StepConfigError(
            f"a training job {spec.name} exists already, and it is not of this step: it has another nonce. "
            "Clear the task to submit under another name"
        )
    return job


def _arn_of(job: requests.Json | None) -> str | None:
    return str(job["TrainingJobArn"]) if job is not None else None


def _size(payload: Payload) -> int:
    """Return how many bytes of the step's input the job finds on its disk."""
    return sum(part.size for part in payload.parts.values())
