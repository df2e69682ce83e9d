"""The ``sagemaker`` backend: a step runs as a SageMaker training job in the user's account.

The worker, the triggerer and the CLI call :class:`SageMakerStepHook`. ``submit`` stages the step's input in the
bucket of its store and then creates the job, under the name in the record. ``request.py`` builds the request.
``status.py`` derives the status of a step from the records of its job. The result comes back as the job's
output; the receipt that proves it as a line of the log, or at the front of the reason of a failure.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from airflow_stepop.connections.aws_clients import AwsClients
from airflow_stepop.connections.defaults import ConnectionDefaults, read_defaults
from airflow_stepop.core.stored_json import TEXT
from airflow_stepop.exceptions import OutcomeLostError, StepConfigError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained
from airflow_stepop.hooks.common.checks import run_checks
from airflow_stepop.hooks.common.input_files import input_files, newest_snapshot
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.listing import Listing
from airflow_stepop.hooks.common.log_cursors import visible
from airflow_stepop.hooks.common.rate_limit import RateLimit
from airflow_stepop.hooks.common.receipts import Receipt, find_receipt, report
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.common.staging import Staged, stage
from airflow_stepop.hooks.common.submission import create_once
from airflow_stepop.hooks.sagemaker import request as requests
from airflow_stepop.hooks.sagemaker.checks import Subject, checks
from airflow_stepop.hooks.sagemaker.job_logs import JobLogs
from airflow_stepop.hooks.sagemaker.machines import Choice, choose
from airflow_stepop.hooks.sagemaker.outcome import Output
from airflow_stepop.hooks.sagemaker.failures import receipt_in
from airflow_stepop.hooks.sagemaker.service import NAME_PART, TrainingJobs, api_error
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
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import configured_store, locate
from airflow_stepop.stores.paths import JOBS, RESULTS

if TYPE_CHECKING:
    from airflow_stepop.hooks.settings import BackendSettings

KEPT_S = 31 * 86400.0  # jobs older than this are not found: a job lasts at most 30 days
JOB_NAME = re.compile(rf"{NAME_PART}([a-z0-9-]+-)?[0-9a-f]{{12}}")  # see core/naming.py
CREATES_PER_S = 1.0  # the service's default limit for CreateTrainingJob, of the account and region
OUTCOME_BYTES = 64 << 20  # of outcome.json
LOOK_S = 1800.0  # a job that no list has shown for so long is asked for by its name
_UNKNOWN_ACCOUNT = "<account of the connection>"
_AT_SUBMIT = "<known at submit>"


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

    # -- submit

    def render(self, spec: StepSpec) -> dict[str, Any]:
        settings = self.settings_of(spec)
        place = self._place(spec, has_parts=False)
        secret = requests.Secret(spec.digest, _AT_SUBMIT)
        region = self._in(settings.region_name).region
        choice = choose(settings, spec.resources)
        return requests.training_job(
            spec, settings, place, secret, choice, region=region, account=_UNKNOWN_ACCOUNT
        )

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        settings = self.settings_of(spec)
        clients = self._in(settings.region_name)
        self.render(spec)  # raises what no submit can cure before anything is written
        choice = choose(settings, spec.resources, _input_bytes(payload))
        self._log_choice(choice)
        jobs, store = TrainingJobs(clients), _bucket(spec.result_uri)
        mounts = _mounts(spec, payload, store)
        place = self._place(spec, has_parts=bool(mounts))
        staged, seal = self._stage(spec, payload, store, mounts, place)
        place = replace(place, native_inputs=_native(store, store.path_of(staged.uri) or ""))
        account = clients.account if not str(settings.role).startswith("arn:") else ""
        body = requests.training_job(
            spec,
            settings,
            place,
            requests.Secret(payload.digest, staged.runner_digest, seal),
            choice,
            region=clients.region,
            account=account,
        )
        with explained(self.api_error, self._submit_errors(clients)):
            arn = create_once(
                find=lambda: self._own_arn(jobs, spec),
                create=lambda: self._create(jobs, clients, body),
                classify=self.api_error,
            )
        return self._handle(arn, spec.name, {"results": place.results, "inputs": place.inputs})

    def _log_choice(self, choice: Choice) -> None:
        if choice.message:
            self.log.info("SageMaker: %s", choice.message)
        for warning in choice.warnings:
            self.log.warning("SageMaker: %s", warning)

    def _stage(
        self,
        spec: StepSpec,
        payload: Payload,
        store: BucketStore,
        mounts: Mapping[str, str],
        place: requests.Location,
    ) -> tuple[Staged, str]:
        """Write the job's input into the store; return what lies there, and the key of the sealed files."""
        features = {"mounted", "sealed"} if payload.secrets else {"mounted"}
        if place.native_checkpoints:
            features.add("once")
        payload = replace(payload, features=payload.features | features)
        checkpoints = requests.CHECKPOINTS if spec.checkpoint_uri else None
        files = input_files(payload, spec, mounts, has_output_folder=True, checkpoint_folder=checkpoints)
        is_sealed = any(file.is_secret for file in files.values())
        key = seal_key(spec.nonce) if is_sealed else None
        folder = store.path_of(place.inputs) or ""
        if mounts:
            store.put(f"{folder}-parts.manifest", _parts_manifest(mounts, store))
        return stage(store, folder, files, key), key.hex() if key else ""

    def _place(self, spec: StepSpec, *, has_parts: bool) -> requests.Location:
        store, results = _results(spec)
        inputs = _jobs_folder(results)
        is_restarted = requests.is_restartable(self.settings_of(spec)) or bool(spec.checkpoint_uri)
        if spec.checkpoint_uri:
            kept = f"{_bucket(spec.checkpoint_uri).path_of(spec.checkpoint_uri)}/{spec.name}/"
        else:
            kept = f"{inputs}/attempts/"
        return requests.Location(
            native_results=_native(store, results),
            native_inputs=_native(store, f"{inputs}/in"),
            native_checkpoints=_native(store, kept) if is_restarted else "",
            results=store.uri(results),
            inputs=store.uri(f"{inputs}/in"),
            parts_manifest=_native(store, f"{inputs}/in-parts.manifest") if has_parts else "",
        )

    def _create(self, jobs: TrainingJobs, clients: AwsClients, body: requests.Json) -> str:
        """Create the job. Where the caller must not set tags, create it without them."""
        limit = RateLimit(f"sagemaker-{clients.account}-{clients.region}", CREATES_PER_S)
        limit.wait()
        try:
            return jobs.create(body)
        except Exception as error:
            found = self.api_error(error)
            if found.kind is not Trouble.DENIED or "sagemaker:AddTags" not in found.message:
                raise
            self.log.warning(
                "The job has no tags, because the caller must not set them (%s). Allow sagemaker:AddTags on "
                "training-job/* to have the labels of a step in cost reports",
                found.message,
            )
        limit.wait()
        return jobs.create({name: value for name, value in body.items() if name != "Tags"})

    def _own_arn(self, jobs: TrainingJobs, spec: StepSpec) -> str | None:
        """Return the ARN of the job named ``spec.name``; ``None``: there is none.

        :raises StepConfigError: a job of this name belongs to somebody else
        """
        job = jobs.describe(spec.name)
        if job is None:
            return None
        environment = job.get("Environment") or {}
        if environment.get("STEPOP_NONCE") != spec.nonce:
            raise StepConfigError(
                f"a training job {spec.name} exists already, and it is not of this step: it has another nonce. "
                "Clear the task to submit under another name"
            )
        return str(job["TrainingJobArn"])

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
        arn = self._own_arn(jobs, spec)
        if arn is None or jobs.is_deleted(arn):
            return None
        return self._handle(arn, spec.name, self._about(jobs, spec.name))

    def _about(self, jobs: TrainingJobs, name: str) -> dict[str, str]:
        found = requests.about((jobs.describe(name) or {}).get("Environment") or {}) or {}
        return {key: str(found.get(key, "")) for key in ("results", "inputs")}

    def _handle(self, arn: str, name: str, detail: Mapping[str, str]) -> JobHandle:
        _, _, _, region, account, _ = arn.split(":", 5)
        return JobHandle(self.backend, self.used_conn_id, f"{account}/{region}", name, name, dict(detail))

    # -- status

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found: dict[JobHandle, JobStatus] = {}
        by_region: dict[str, list[JobHandle]] = {}
        for handle in handles:
            by_region.setdefault(_region(handle), []).append(handle)
        for region, some in by_region.items():
            views = self._listing(region).looks([handle.name for handle in some])
            for handle in some:
                found[handle] = self._status(handle, views[handle.name])
        return found

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        job = self._jobs(_region(handle)).describe(handle.name)
        return self._status(handle, job)

    def _status(self, handle: JobHandle, job: requests.Json | None) -> JobStatus:
        if job is None:
            self._check_account(handle)
            return JobStatus(JobState.GONE)
        status = status_of(job)
        if status.state.is_terminal and self._is_deleted(handle, job):
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
                partial(_changes, jobs), jobs.describe, is_over=lambda job: status_of(job).state.is_terminal
            )
        return self._listings[region]

    @cached_property
    def _listings(self) -> dict[str, Listing[requests.Json]]:
        return {}

    # -- outcome

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        detail = self.handle_detail(handle, {"results": TEXT, "inputs": TEXT})
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
        output = Output(detail["results"])
        base_uri = output.base_uri()
        if base_uri is None:
            raise OutcomeLostError(f"{handle} left no outcome below {detail['results']}/output")
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
        detail = self.handle_detail(handle, {"results": TEXT, "inputs": TEXT})
        store = _bucket(detail["results"])
        folder = store.path_of(detail["inputs"])
        if folder:
            store.delete_folder(folder.rpartition("/")[0])
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
            detail = {key: str(known.get(key, "")) for key in ("results", "inputs")}
            yield FoundJob(self._handle(arn, name, detail), known["labels"], summary["CreationTime"].timestamp())

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
            store if isinstance(store, BucketStore) and store.url.startswith("s3://") else None,
        )
        return run_checks(self.api_error, checks(subject))


RECEIPT_LINES = 50  # last lines that are searched for the receipt


def _lines(events: Sequence[Any]) -> list[LogLine]:
    return [line for event in events for line in visible(event.time_ms / 1000, event.text)]


def _region(handle: JobHandle) -> str:
    return handle.scope.partition("/")[2]


def _has_run(job: Mapping[str, Any]) -> bool:
    """Return whether the container of a job has run: only then it can have left an outcome."""
    words = {one.get("Status") for one in job.get("SecondaryStatusTransitions") or []}
    return "Training" in words


def _changes(jobs: TrainingJobs, since: float | None) -> Iterator[tuple[str, requests.Json, float]]:
    for summary in jobs.changed_since(since):
        yield str(summary["TrainingJobName"]), summary, summary["LastModifiedTime"].timestamp()


def _bucket(uri: str) -> BucketStore:
    """Return the bucket that a step's data lie in.

    :raises StepConfigError: the store is no bucket in S3, which SageMaker reads and writes itself
    """
    store, _ = locate(uri)
    if not isinstance(store, BucketStore) or not store.url.startswith("s3://"):
        raise StepConfigError(
            f"backend 'sagemaker' needs a store in S3, and this step's store is {store}: set [stepop] store, or "
            '"store" in the "stepop" of the connection\'s extra, to s3://bucket/prefix'
        )
    return store


def _input_bytes(payload: Payload) -> int:
    """Return how many bytes of the step's input the job finds on its disk."""
    return sum(part.size for part in payload.parts.values())


def _results(spec: StepSpec) -> tuple[BucketStore, str]:
    """Return the bucket and the folder below which the service writes ``output``; it ends with the job's name."""
    store = _bucket(spec.result_uri)
    path = store.path_of(spec.result_uri) or ""
    return store, path if path.endswith(f"/{spec.name}") else f"{path}/{spec.name}"


def _native(store: BucketStore, path: str) -> str:
    """Return the address of an object as AWS names it, without ``//`` in its key, which SageMaker refuses."""
    key = re.sub("/+", "/", f"{store.prefix}/{path}").strip("/")
    return f"s3://{store.bucket}/{key}" + ("/" if path.endswith("/") else "")


def _jobs_folder(results: str) -> str:
    """Return the folder for a job's own input: beside that of its results, below another top folder."""
    top, _, rest = results.partition("/")
    return f"{JOBS}/{rest}" if top == RESULTS else f"{JOBS}/{results}"


def _mounts(spec: StepSpec, payload: Payload, store: BucketStore) -> dict[str, str]:
    """Return the objects that the service copies into the job: URI -> path in the job.

    Large parts of the payload and the newest checkpoint are among them, if they lie in the step's own bucket.
    """
    uris = {one.uri for part in payload.parts.values() for one in part.ranges}
    snapshot = newest_snapshot(spec) if spec.checkpoint_uri else None
    if snapshot is not None:
        uris.add(snapshot)
    found = {}
    for uri in sorted(uris):
        path = store.path_of(uri)
        if path is not None:
            found[uri] = f"{requests.PARTS}/{path}"
    return found


def _parts_manifest(mounts: Mapping[str, str], store: BucketStore) -> bytes:
    """Return the list of the objects in the channel for large parts.

    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
    """
    paths = [store.path_of(uri) or "" for uri in mounts]
    return json.dumps([{"prefix": _native(store, "") .rstrip("/") + "/"}, *paths]).encode()
