"""The ``kubernetes`` backend: a step runs as a Job with one pod on the user's cluster.

The worker, the triggerer and the CLI call :class:`KubernetesStepHook`. ``submit`` creates the Job suspended,
then a Secret with the step's input, then releases the Job with one patch. If the caller dies in between,
nothing runs: a repeated ``submit`` completes the submission, and ``lookup`` deletes the unreleased Job.
``manifests.py`` builds the objects. ``status.py`` derives the status of a step from them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.core.stored_json import TEXT
from airflow_stepop.exceptions import OutcomeLostError, StepConfigError
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained
from airflow_stepop.hooks.common.checks import Check, run_checks
from airflow_stepop.hooks.common.input_files import InputFile, input_files
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.common.receipts import Receipt, report
from airflow_stepop.hooks.common.same_job import refuse_name
from airflow_stepop.hooks.kubernetes import console
from airflow_stepop.hooks.kubernetes import status as job_status
from airflow_stepop.hooks.kubernetes.access import access_checks
from airflow_stepop.hooks.kubernetes.cluster import Cluster, api_error
from airflow_stepop.hooks.kubernetes.connection import connect
from airflow_stepop.hooks.kubernetes.ending import annotate, delete_job, end_job
from airflow_stepop.hooks.kubernetes.job_states import JobStates, selector
from airflow_stepop.hooks.kubernetes.manifests import (
    CANCELLED,
    DIGEST,
    FAILURE,
    RESULTS,
    existing,
    is_bucket,
    is_of,
    is_released,
    job_labels,
    job_manifest,
    labels_of,
    release,
    secret_manifest,
    size_note,
)
from airflow_stepop.hooks.kubernetes.outcome import (
    annotations_of,
    ending_annotations,
    preserved_annotations,
    preserved_receipt,
    read_outcome,
    reported,
)
from airflow_stepop.hooks.kubernetes.own_objects import is_own, uid_of
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.pods import newest, receipt_of, seconds
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
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
from airflow_stepop.runner.protocol import FRAMES, OUTCOME
from airflow_stepop.runner.secret_references import AWS

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.objects import Json
    from airflow_stepop.hooks.settings import BackendSettings

SECRET_BYTES = 1 << 20  # of all values together: https://kubernetes.io/docs/concepts/configuration/secret/
OWN_BYTES = 160 << 10  # of these, reserved for the runner with all its features and for signed addresses
ELSEWHERE = "; the step's settings name this namespace: the Role in the documentation is needed there, too"


class KubernetesStepHook(StepHook[KubernetesSettings]):
    """Runs steps as Jobs on a Kubernetes cluster.

    :param conn_id: connection of Airflow's type ``kubernetes``; by default ``kubernetes_default``
    """

    backend = "kubernetes"
    settings_model = KubernetesSettings
    default_conn_id = "kubernetes_default"
    inline_limit = SECRET_BYTES - OWN_BYTES
    log_reads_per_second = 5
    secret_services = frozenset({AWS})  # of a pod with EKS Pod Identity
    wrong_scope = (
        "{handle} was made in {scope}, but the connection now leads to {here}, which has no such job: "
        "correct the connection, or set its cluster_context; if the first cluster no longer exists, "
        "delete the key 'stepop' of the task's state"
    )

    @cached_property
    def _clusters(self) -> dict[tuple[str | None, str | None], Cluster]:
        return {}

    def cluster(self, context: str | None = None, namespace: str | None = None) -> Cluster:
        """Return the client for a context and a namespace; the connection's own for ``None``."""
        key = context, namespace
        if key not in self._clusters:
            self._clusters[key] = connect(self.connection, context, namespace)
        return self._clusters[key]

    def scope(self) -> str:
        return self.cluster().scope

    # -- submit

    def render(self, spec: StepSpec) -> dict[str, object]:
        return job_manifest(spec, self.settings_of(spec))

    def submit(self, spec: StepSpec, payload: Payload) -> JobHandle:
        body, settings = self.render(spec), self.settings_of(spec)
        if not settings.outcome_in_log and not is_bucket(spec.result_uri):
            raise StepConfigError(
                "outcome_in_log=False needs a bucket in [stepop] store: without one, results above 1 KiB "
                "have no way back"
            )
        way_back = "frames" if settings.outcome_in_log else "outcome"
        payload = replace(payload, features=payload.features | {way_back})
        cluster = self._cluster_of(spec)
        self._job_url(self._handle(spec.name, cluster, settings.kubernetes_context))
        with explained(self.api_error, self._submit_errors(cluster, body)):
            job = cluster.create("jobs", body) or existing(cluster.get("jobs", spec.name), spec)
            handle = self._handle(spec.name, cluster, settings.kubernetes_context, uid_of(job))
            if not is_own(replace(handle, nonce=spec.nonce), job):
                refuse_name("Job", spec.name)
            if not is_released(job):
                self._release(cluster, job, payload, spec, settings)
        return handle

    def _submit_errors(self, cluster: Cluster, body: Mapping[str, object]) -> Mapping[Trouble, str]:
        place = f"namespace {cluster.namespace!r}"
        elsewhere = "" if cluster.namespace == self.cluster().namespace else ELSEWHERE
        return {
            Trouble.QUOTA: place,
            Trouble.DENIED: f"{place} does not let Airflow do this (see airflow stepop check{elsewhere})",
            Trouble.NOT_FOUND: f"{cluster.host} has no {place}",
            Trouble.INVALID: f"the cluster refused the job{size_note(body)}",
        }

    def _release(
        self, cluster: Cluster, job: Json, payload: Payload, spec: StepSpec, settings: KubernetesSettings
    ) -> None:
        """Create the Secret with the input, unless an earlier call did, and let the Job start."""
        files = input_files(payload, spec)
        if settings.outcome_in_log:
            files[FRAMES] = InputFile([secrets.token_bytes(32)], is_secret=True)
        secret = secret_manifest(job, payload.digest, files)
        digest = payload.digest
        if cluster.create("secrets", secret) is None:
            found = existing(cluster.get("secrets", spec.name), spec)
            if not is_of(job, found):  # of a deleted Job: the cluster's garbage collector removes it soon
                raise ConnectionError(f"the Secret of an earlier job {spec.name} is still there")
            digest = found["metadata"]["annotations"][DIGEST]
        patch = release(job["metadata"]["uid"], digest, settings.queue_name)
        existing(cluster.patch("jobs", spec.name, patch), spec)

    def lookup(self, spec: StepSpec) -> JobHandle | None:
        """Return the job if its submission was completed; delete an unreleased Job."""
        cluster = self._cluster_of(spec)
        job = cluster.get("jobs", spec.name)
        if job is None or "deletionTimestamp" in job["metadata"]:
            return None
        handle = self._handle(spec.name, cluster, self.settings_of(spec).kubernetes_context, uid_of(job))
        if not is_own(replace(handle, nonce=spec.nonce), job):
            return None
        if not is_released(job):
            delete_job(cluster, job)
            return None
        return handle

    def _cluster_of(self, spec: StepSpec) -> Cluster:
        settings = self.settings_of(spec)
        return self.cluster(settings.kubernetes_context, settings.namespace)

    def _handle(self, name: str, cluster: Cluster, context: str | None, uid: str = "") -> JobHandle:
        detail = {"namespace": cluster.namespace, **({"context": context} if context else {})}
        return JobHandle(self.backend, self.used_conn_id, cluster.scope, name, name, detail, instance=uid)

    # -- status and outcome

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found = {}
        for cluster, some in self._by_cluster(handles):
            views = self._states(cluster).views(some)
            for handle in some:
                view = views[handle.id]
                if view.status.state is JobState.GONE:
                    self.check_scope(handle, cluster.scope)
                found[handle] = view.status
                if view.job is not None and view.failure is not None:
                    end_job(cluster, view.job, {FAILURE: json.dumps(view.failure.to_json())})
        return found

    def fresh_status(self, handle: JobHandle) -> JobStatus:
        cluster = self._cluster(handle)
        status = self._states(cluster).status_now(handle)
        if status.state is JobState.GONE:
            self.check_scope(handle, cluster.scope)
        return status

    def changed_jobs(self) -> Collection[JobHandle] | None:
        watched = [
            (context, cluster, states)
            for (context, _), cluster in list(self._clusters.items())
            if (states := self._known_states.get(id(cluster))) is not None and states.is_watched
        ]
        if not watched:
            return None
        return [
            self._handle(name, cluster, context)
            for context, cluster, states in watched
            for name in states.changed_jobs()
        ]

    def _exactly(self, handle: JobHandle) -> tuple[Cluster, Json | None, Sequence[Json]]:
        """Return the cluster of a job, its Job (``None`` when gone) and its pods, as the API has them now."""
        cluster = self._cluster(handle)
        job, pods = self._states(cluster).exactly(handle)
        if job is None:
            self.check_scope(handle, cluster.scope)
        return cluster, job, pods

    def _states(self, cluster: Cluster) -> JobStates:
        return self._known_states.setdefault(id(cluster), JobStates(cluster))

    @cached_property
    def _known_states(self) -> dict[int, JobStates]:
        return {}

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        cluster, job, pods = self._exactly(handle)
        if job is None:
            raise OutcomeLostError(f"{handle} left no outcome: its Job is gone")
        found, results, missing = job, annotations_of(job).get(RESULTS, ""), ""
        if (receipt := receipt_of(pods)) is None:
            receipt, missing = preserved_receipt(job)

        def read(receipt: Receipt) -> bytes:
            return read_outcome(cluster, found, pods, f"{results}/{OUTCOME}", receipt)

        return reported(report(handle, receipt, results, read), missing)

    def preserve_outcome(self, handle: JobHandle) -> None:
        cluster = self._cluster(handle)
        view = self._states(cluster).views([handle])[handle.id]
        if view.job is None or not view.status.state.is_terminal or job_status.is_outcome_preserved(view.job):
            return
        if annotations := preserved_annotations(cluster, view.job, view.pods, view.status):
            annotate(cluster, view.job, annotations)

    # -- logs

    def tail(self, handle: JobHandle, count: int, since: Cursor = None) -> LogChunk:
        return self._pod_log(handle).last(count, since)

    def logs(self, cursors: Mapping[JobHandle, Cursor]) -> Mapping[JobHandle, LogChunk]:
        found = {}
        for handle, cursor in cursors.items():
            chunk = self._pod_log(handle).since(cursor)
            if chunk is not None:
                found[handle] = chunk
        return found

    def _pod_log(self, handle: JobHandle) -> PodLog:
        cluster = self._cluster(handle)
        return PodLog(cluster, self._states(cluster).pod_of(handle))

    # -- the end

    def cancel(self, handle: JobHandle) -> None:
        cluster, job, pods = self._exactly(handle)
        if job is None:
            return
        status = job_status.status_of(job, pods)
        if not status.state.is_terminal:
            end_job(cluster, job, {CANCELLED: "true"})
        elif job_status.has_sidecars(newest(pods)):
            end_job(cluster, job, ending_annotations(status))

    def delete(self, handle: JobHandle) -> None:
        cluster = self._cluster(handle)
        job = cluster.get("jobs", handle.id)
        if job is not None and is_own(handle, job):
            delete_job(cluster, job)

    def api_error(self, error: Exception) -> ApiError:
        return api_error(error)

    def find(self, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        wanted = selector(job_labels(labels))
        return self._of(self.cluster().list_everywhere("jobs", labelSelector=wanted), None, labels)

    def _of(self, jobs: Iterable[Json], context: str | None, labels: Mapping[str, str]) -> Iterator[FoundJob]:
        for job in jobs:
            metadata = job["metadata"]
            if (original := labels_of(metadata)) is not None and matches(original, labels):
                cluster = self.cluster(context, metadata["namespace"])
                handle = self._handle(metadata["name"], cluster, context, uid_of(job))
                yield FoundJob(handle, original, seconds(metadata["creationTimestamp"]))

    def find_for(self, settings: BackendSettings, labels: Mapping[str, str]) -> Iterable[FoundJob]:
        settings, wanted = cast(KubernetesSettings, settings), selector(job_labels(labels))
        cluster = self.cluster(settings.kubernetes_context, settings.namespace)
        is_own = cluster.scope == self.scope()
        found = () if is_own else cluster.list("jobs", labelSelector=wanted)
        return self._of(found, settings.kubernetes_context, labels)

    def location_of(self, handle: JobHandle) -> Mapping[str, object]:
        cluster = self.handle_detail(handle, {"namespace": TEXT}, {"context": TEXT})
        context = {"kubernetes_context": cluster["context"]} if "context" in cluster else {}
        return {"namespace": cluster["namespace"], **context}

    def link(self, handle: JobHandle) -> str | None:
        """Return the job's page in the console that the connection names.

        A wrong ``console_url`` is only logged as a warning, because the job runs already.
        """
        if handle.conn_id is None:
            return None
        try:
            return self._job_url(handle)
        except Exception as error:  # noqa: BLE001, RUF100 - a wrong link fails no job
            self.log.warning("No link to %s: %s", handle, error)
            return None

    def _job_url(self, handle: JobHandle) -> str | None:
        """Return the job's page; ``None`` if the connection names no console.

        :raises StepConfigError: ``console_url`` in the connection's extra is not a valid address
        """
        return console.job_url(self.connection, handle) if self.connection is not None else None

    def check(self) -> Iterable[Finding]:
        return self.check_for(KubernetesSettings())

    def check_for(self, settings: BackendSettings) -> Iterable[Finding]:
        settings = cast(KubernetesSettings, settings)
        try:
            cluster = self.cluster(settings.kubernetes_context, settings.namespace)
        except StepConfigError as error:
            return [Finding(False, "connection", str(error), "correct the connection")]
        reach = "check the connection, and that this host reaches the cluster"
        return run_checks(
            self.api_error,
            [
                Check(
                    "cluster",
                    lambda: self._check_version(cluster),
                    reach,
                    f"{cluster.host} does not answer: ",
                    True,
                ),
                *access_checks(cluster),
                Check(
                    "console",
                    lambda: self._check_console(cluster, settings),
                    "correct console_url, or remove it",
                ),
            ],
        )

    def _check_version(self, cluster: Cluster) -> Iterator[Finding]:
        version = cluster.request("GET", "/version")
        yield Finding(True, "cluster", f"{cluster.host} answers: {version.get('gitVersion')}")

    def _check_console(self, cluster: Cluster, settings: KubernetesSettings) -> Iterator[Finding]:
        known = settings.kubernetes_context
        if known is None and self.connection is not None:
            known = extra_of(self.connection).get("cluster_context")
        url = self._job_url(self._handle("JOB", cluster, known or "CONTEXT"))
        if url is not None:
            needed = "" if known or "CONTEXT" not in url else "; every step must set kubernetes_context"
            yield Finding(True, "console", f"the page of a job is {url}{needed}")

    # -- handles

    def _cluster(self, handle: JobHandle) -> Cluster:
        detail = self.handle_detail(handle, {"namespace": TEXT}, {"context": TEXT})
        return self.cluster(detail.get("context"), detail["namespace"])

    def _by_cluster(self, handles: Sequence[JobHandle]) -> Iterator[tuple[Cluster, list[JobHandle]]]:
        groups: dict[int, tuple[Cluster, list[JobHandle]]] = {}
        for handle in handles:
            cluster = self._cluster(handle)
            groups.setdefault(id(cluster), (cluster, []))[1].append(handle)
        yield from groups.values()
