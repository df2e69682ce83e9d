"""The ``sagemaker`` backend: a step runs as a SageMaker training job in the user's account.

The worker, the triggerer and the CLI call :class:`SageMakerStepHook`. ``submit`` stages the step's input in
its bucket, and then creates the job under the name in the record. ``request.py`` builds the request.
``region.py`` and ``status.py`` have the states of the jobs. The result comes back as the job's output. The
receipt that proves it comes back as a line of the log, or at the front of the reason of a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from airflow_stepop.connections.aws_clients import AwsClients
from airflow_stepop.connections.defaults import ConnectionDefaults, read_defaults
from airflow_stepop.core.stored_json import NUMBER, TEXT, TRUTH
from airflow_stepop.exceptions import OutcomeLostError, StepConfigError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained
from airflow_stepop.hooks.common.checks import run_checks
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.rate_limit import RateLimit
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.common.staging import remove_sealed, stage, unstage
from airflow_stepop.hooks.common.submission import create_once
from airflow_stepop.hooks.sagemaker import request as requests
from airflow_stepop.hooks.sagemaker.checks import Subject, checks
from airflow_stepop.hooks.sagemaker.log_access import refused_reads
from airflow_stepop.hooks.sagemaker.machines import Choice, choose, machines
from airflow_stepop.hooks.sagemaker.outcome import Output, outcome_of
from airflow_stepop.hooks.sagemaker.own_jobs import Identity, instance_of, own_arn
from airflow_stepop.hooks.sagemaker.places import (
    CHECKPOINTS,
    Places,
    check_isolated,
    is_s3,
    own_folder,
    parts_of,
    places_of,
    write_parts_manifest,
)
from airflow_stepop.hooks.sagemaker.region import Region
from airflow_stepop.hooks.sagemaker.secret_access import unreadable_secrets
from airflow_stepop.hooks.sagemaker.service import SHOWN_S, TrainingJobs, api_error, submit_error
from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
from airflow_stepop.hooks.sagemaker.states import STATES
from airflow_stepop.hooks.sagemaker.status import has_run, status_of
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
from airflow_stepop.runner.secret_references import AWS
from airflow_stepop.stores.configured import step_store, store_of

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.machines import Machines
    from airflow_stepop.hooks.settings import BackendSettings

CREATES_PER_S = 1.0  # the service's default limit for CreateTrainingJob, of the account and region
RECEIPT_LINES = 50  # last lines that are searched for the receipt
CLOCKS_S = 600.0  # how much the clocks of this host and of the service may differ


class SageMakerStepHook(StepHook[SageMakerSettings]):
    """Runs steps as SageMaker training jobs.

    :param conn_id: connection of Airflow's type ``aws``; by default ``aws_default``
    """

    backend = "sagemaker"
    settings_model = SageMakerSettings
    default_conn_id = "aws_default"
    sample_image = "pytorch"
    inline_limit = 64 << 20
    store_scheme = "s3"
    poll_interval_s = 6.0  # one ListTrainingJobs each; the service allows two a second
    log_reads_per_second = 300  # FilterLogEvents reads a hundred at once: three of five requests a second
    stop_limit_s = 1800.0
    state_table = STATES
    secret_services = frozenset({AWS})

    # -- clients

    @cached_property
    def _regions(self) -> dict[str | None, Region]:
        return {}

    def _in(self, region: str | None) -> Region:
        """Return what this process knows of a region; ``None``: the connection's own region."""
        if region not in self._regions:
            self._refuse_endpoints()
            self._regions[region] = Region(AwsClients(self.connection, region))
        return self._regions[region]

    def _refuse_endpoints(self) -> None:
        """Refuse addresses in our own part of the connection: the Amazon provider has a place for them."""
        if self.connection is not None and read_defaults(self.connection).endpoints:
            raise StepConfigError(
                f'the connection {self.used_conn_id}: "endpoints" below "stepop" is not for type aws. Write '
                '"service_config": {"sagemaker": {"endpoint_url": "https://..."}} beside "stepop" instead'
            )

    def _of(self, handle: JobHandle) -> Region:
        return self._in(handle.scope.partition("/")[2])

    def scope(self) -> str:
        clients = self._in(None).clients
        return f"{clients.account}/{clients.region}"

    def machines(self) -> Machines:
        return machines()

    # -- submit

    def render(self, spec: StepSpec) -> dict[str, Any]:
        settings = self.settings_of(spec)
        choice = choose(settings, spec.resources)  # first: a refusal needs neither a region nor a store
        region = self._in(settings.region_name).clients.region
        places = places_of(spec, requests.may_restart(settings))
        submitted = requests.Submitted(spec.digest, f"{places.native(places.folder)}/<digest of the input>")
        return requests.training_job(spec, settings, places, submitted, choice, region)

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        settings = self.settings_of(spec)
        region, choice = self._in(settings.region_name), choose(settings, spec.resources, _size(payload))
        places = places_of(spec, requests.may_restart(settings))
        self._check(region, spec, places, settings, choice)
        self._log_choice(spec, settings, region.clients.region, choice)
        denied = unreadable_secrets(region.clients, settings.role or "", payload)
        for warning in filter(None, (refused_reads(region.clients), denied)):
            self.log.warning("SageMaker: %s", warning)
        submitted = self._stage(spec, payload, places)
        if not str(settings.role).startswith("arn:"):
            submitted = replace(submitted, account=region.clients.account)
        body = requests.training_job(spec, settings, places, submitted, choice, region.clients.region)
        jobs, submitted_at = region.jobs, time.time()
        try:
            with explained(submit_error, self._submit_errors(region.clients.region)):
                arn = create_once(
                    find=lambda: own_arn(jobs.describe(spec.name), spec),
                    create=lambda: self._create(jobs, body),
                    classify=self.api_error,
                    taken_lag_s=SHOWN_S,
                )
        except StepConfigError:  # the step fails for good, and has no job that could be collected
            if submitted.has_secrets:
                remove_sealed(places.store, places.folder)
            raise
        shown = jobs.wait_until_shown(spec.name)
        handle = self._handle(arn, spec.name, places.result_uri, places.folder_uri, submitted_at)
        detail = {**handle.detail, "has_secrets": submitted.has_secrets}
        return replace(handle, detail=detail, instance=instance_of(shown) if shown is not None else "")

    def _check(
        self, region: Region, spec: StepSpec, places: Places, settings: SageMakerSettings, choice: Choice
    ) -> None:
        """Check the request before anything is written, with values of the same form for what is staged.

        :raises StepConfigError: the service would refuse the request
        """
        address = f"{places.native(places.folder)}/{'0' * 32}"
        known = requests.Submitted("0" * 64, address, f"{address}.manifest", "0" * 64, "0" * 64, "0" * 12)
        body = requests.training_job(spec, settings, places, known, choice, region.clients.region)
        region.jobs.check_request(body)

    def _log_choice(self, spec: StepSpec, settings: SageMakerSettings, region: str, choice: Choice) -> None:
        image = requests.image_of(spec, settings, region, choice)
        for text in filter(None, (choice.message, image.message)):
            self.log.info("SageMaker: %s", text)
        for warning in choice.warnings:
            self.log.warning("SageMaker: %s", warning)

    def _stage(self, spec: StepSpec, payload: Payload, places: Places) -> requests.Submitted:
        """Write the job's input into the bucket."""
        features = {"mounted", "sealed", *(["once", "kept"] if places.checkpoints else [])}
        parts, key = parts_of(spec, payload, places), seal_key(spec.nonce)
        files = input_files(
            replace(payload, features=payload.features | features),
            spec,
            parts,
            has_output_folder=True,
            may_restart=bool(places.checkpoints),
            checkpoint_folder=CHECKPOINTS,
        )
        if self.settings_of(spec).enable_network_isolation:
            check_isolated(payload, files)
        staged = stage(places.store, places.folder, files, key)
        return requests.Submitted(
            payload.digest,
            places.native(places.store.path_of(staged.uri) or ""),
            write_parts_manifest(parts, places),
            staged.runner_digest,
            key.hex(),
            has_secrets=any(file.is_secret for file in files.values()),
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
                "The job has no tags, because the caller must not set them (%s). Allow sagemaker:AddTags to "
                "have the labels of a step in cost reports",
                found.message,
            )
        limit.wait()
        return jobs.create({name: value for name, value in body.items() if name != "Tags"})

    def _submit_errors(self, region: str) -> Mapping[Trouble, str]:
        place = f"SageMaker in {region}"
        return {
            Trouble.QUOTA: place,
            Trouble.DENIED: f"{place} does not let Airflow do this (see airflow stepop check)",
            Trouble.NOT_FOUND: f"{place} does not find what the job needs",
            Trouble.INVALID: f"{place} refused the training job",
        }

    def lookup(self, spec: StepSpec) -> JobHandle | None:
        jobs = self._in(self.settings_of(spec).region_name).jobs
        job = jobs.describe(spec.name)
        if job is None or not Identity.of(job).is_of(replace(self._handle_of(job), nonce=spec.nonce)):
            return None
        if not requests.is_ours(job, spec.nonce):
            return None  # a submit says whose it is not
        if status_of(job).state.is_terminal and jobs.is_deleted(str(job["TrainingJobArn"])):
            return None
        return self._handle_of(job)

    def _handle_of(
        self, job: requests.Json, about: requests.Json | None = None, instance: str = ""
    ) -> JobHandle:
        """Return the handle of a job.

        :param job: a whole record, or a summary with ``about`` and ``instance``
        """
        known = about or requests.about(job.get("Environment") or {}) or {}
        results, inputs = (str(known.get(key, "")) for key in ("results", "inputs"))
        created_at = job["CreationTime"].timestamp()
        arn, name = str(job["TrainingJobArn"]), str(job["TrainingJobName"])
        handle = self._handle(arn, name, results, inputs, created_at)
        return replace(handle, instance=instance or instance_of(job))

    def _handle(self, arn: str, name: str, results: str, inputs: str, submitted_at: float) -> JobHandle:
        _, _, _, region, account, _ = arn.split(":", 5)
        detail = {"results": results, "inputs": inputs, "submitted_at": submitted_at}
        return JobHandle(self.backend, self.used_conn_id, f"{account}/{region}", name, name, detail)

    # -- status

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found: dict[JobHandle, JobStatus] = {}
        for region, some in self._by_region(handles):
            begin = min(self._detail(handle)["submitted_at"] for handle in some) - CLOCKS_S
            statuses = region.statuses(some, begin)
            found |= {handle: statuses[handle.name] or self._gone(handle) for handle in some}
        return found

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        return self._of(handle).status_now(handle) or self._gone(handle)

    def _gone(self, handle: JobHandle) -> JobStatus:
        """Return the status of a job that the service does not know, if this is the account of the job."""
        clients = self._of(handle).clients
        self.check_scope(handle, f"{clients.account}/{clients.region}")
        return JobStatus(JobState.GONE)

    def _by_region(self, handles: Iterable[JobHandle]) -> Iterable[tuple[Region, list[JobHandle]]]:
        found: dict[Region, list[JobHandle]] = {}
        for handle in handles:
            found.setdefault(self._of(handle), []).append(handle)
        return found.items()

    def _detail(self, handle: JobHandle) -> dict[str, Any]:
        required = {"results": TEXT, "inputs": TEXT, "submitted_at": NUMBER}
        return self.handle_detail(handle, required, {"has_secrets": TRUTH})

    # -- outcome and logs

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        region = self._of(handle)
        job = region.own_jobs.record_of(handle)
        if job is None:
            self._gone(handle)
        if job is None or region.is_deleted(job):
            raise OutcomeLostError(f"{handle} left no outcome: the job is gone")
        if not has_run(job):
            raise OutcomeLostError(f"{handle} left no outcome: its container did not run")
        output = Output(self._detail(handle)["results"])
        return outcome_of(handle, job, output, lambda: region.last_texts(handle.name, RECEIPT_LINES))

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        found: dict[JobHandle, LogChunk] = {}
        for region, handles in self._by_region(cursors):
            read = region.logs({handle.name: cursors[handle] for handle in handles})
            found |= {handle: read[handle.name] for handle in handles if handle.name in read}
        return found

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        return self._of(handle).tail(handle.name, count, since)

    # -- the end

    def cancel(self, handle: JobHandle) -> None:
        region = self._of(handle)
        if region.own_jobs.record_of(handle) is not None:
            region.jobs.stop(handle.name)

    def delete(self, handle: JobHandle) -> None:
        region, folder = self._of(handle), own_folder(self._detail(handle)["inputs"], handle.name)
        with explained(self.api_error, {Trouble.DENIED: f"{handle} cannot be marked as deleted"}):
            job = region.jobs.describe(handle.name)
            if job is not None and not region.own_jobs.is_own(handle, job):
                remove_sealed(*folder)  # the rest may be the input of the other job; `gc` collects ours
                return
            unstage(*folder)
            if job is not None:
                region.delete(job)

    def delete_secrets(self, handle: JobHandle) -> None:
        detail = self._detail(handle)
        if detail.get("has_secrets", True):
            remove_sealed(*own_folder(detail["inputs"], handle.name))

    def api_error(self, error: Exception) -> ApiError:
        return api_error(error)

    def find(self, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        return self._found(self._in(None), labels)

    def _found(self, region: Region, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        for summary, about, instance in region.found(labels):
            created_at = summary["CreationTime"].timestamp()
            yield FoundJob(self._handle_of(summary, about, instance), about["labels"], created_at)

    def find_for(self, settings: BackendSettings, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        region = self._in(cast(SageMakerSettings, settings).region_name)
        is_own = region.clients.region == self._in(None).clients.region
        return () if is_own else self._found(region, labels)

    def location_of(self, handle: JobHandle) -> Mapping[str, object]:
        return {"region_name": handle.scope.partition("/")[2]}

    def link(self, handle: JobHandle) -> str | None:
        """Return the job's page in the AWS console."""
        region = self._of(handle).clients.region
        domains = {"cn-": "amazonaws.cn", "us-gov-": "amazonaws-us-gov.com"}
        domain = next((name for start, name in domains.items() if region.startswith(start)), "aws.amazon.com")
        host = f"{region}.console.{domain}" if domain != "amazonaws-us-gov.com" else f"console.{domain}"
        return f"https://{host}/sagemaker/home?region={region}#/jobs/{handle.name}"

    def check(self) -> Iterable[Finding]:
        return self.check_for(SageMakerSettings())

    def check_for(self, settings: BackendSettings) -> Iterable[Finding]:
        settings = cast(SageMakerSettings, settings)
        defaults = read_defaults(self.connection) if self.connection is not None else ConnectionDefaults()
        store = step_store(None, self.store_scheme, store_of(defaults))
        subject = Subject(
            self._in(settings.region_name).clients,
            settings,
            defaults.image,
            store if is_s3(store) else None,
        )
        return run_checks(self.api_error, checks(subject))


def _size(payload: Payload) -> int:
    """Return how many bytes of the step's input the job finds on its disk."""
    return sum(part.size for part in payload.parts.values())
