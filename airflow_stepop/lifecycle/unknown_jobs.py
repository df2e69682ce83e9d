"""What a try does if the record of its task instance cannot be trusted.

Whoever may edit a task's state can write any record. So the record leads to no job and to no result. The jobs
of the task instance are found by their labels at the service, cancelled and waited for; then the lifecycle
starts the next generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import UntrustedRecordError
from airflow_stepop.failure import StepFailedError
from airflow_stepop.hooks.common.labels import matches
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.lifecycle.failures import not_stopped
from airflow_stepop.lifecycle.stopping import WITHOUT_PAUSE_S
from airflow_stepop.record import FORGET_RECORD, STATE_KEY

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import JobHandle
    from airflow_stepop.lifecycle.api_retries import ApiRetries
    from airflow_stepop.lifecycle.interfaces import Request
    from airflow_stepop.lifecycle.job_client import JobClient
    from airflow_stepop.record import UntrustedRecord


class UnknownJobs:
    """Finds and ends the jobs of a task instance whose record is not trusted.

    :param request: has the labels of the task instance, and where its jobs run
    """

    def __init__(self, request: Request, jobs: JobClient, api_retries: ApiRetries, log: Logger) -> None:
        self._request = request
        self._jobs = jobs
        self._api_retries = api_retries
        self._log = log

    @property
    def _hook(self) -> StepHook:
        return self._request.hook(self._request.backend, self._request.conn_id)

    def end(self, untrusted: UntrustedRecord) -> int:
        """Cancel the jobs of the task instance and wait until they have ended; return the next generation.

        :raises UntrustedRecordError: the jobs cannot be found from here, so the task must fail
        :raises StepFailedError: a job did not end in time
        """
        self._check_place(untrusted)
        handles = self._find(untrusted)
        names = ", ".join(handle.name for handle in handles)
        self._log.warning(
            "The record of this step in the task's state is not used: %s. %s, and the step starts anew",
            untrusted.why,
            f"Its jobs are found by their labels and ended: {names}" if handles else "It has no job",
        )
        for handle in handles:
            self._jobs.cancel(handle)
        for handle in handles:
            limit_s = min(self._hook.stop_limit_s, WITHOUT_PAUSE_S)
            if not self._jobs.wait_until_over(handle, limit_s):
                raise StepFailedError(not_stopped(limit_s), str(handle))
        return max(untrusted.claimed.generation, 0) + 1

    def cancel(self, untrusted: UntrustedRecord) -> None:
        """Cancel the jobs of the task instance, and do not wait for their end. The task was ended."""
        self._check_place(untrusted)
        for handle in self._find(untrusted):
            self._hook.cancel(handle)

    def _find(self, untrusted: UntrustedRecord) -> Sequence[JobHandle]:
        """Return the task instance's jobs that may still run.

        :raises UntrustedRecordError: the jobs may be those of another Airflow
        """
        hook, labels = self._hook, dict(self._request.labels)

        def found() -> list[JobHandle]:
            jobs = list(hook.find(labels))
            if self._request.location:
                location = parse_settings(hook.settings_model, dict(self._request.location), hook.backend)
                jobs += hook.find_for(location, labels)
            handles = list(dict.fromkeys(job.handle for job in jobs if matches(job.labels, labels)))
            states = hook.status(handles) if handles else {}
            return [handle for handle in handles if not states[handle].state.is_terminal]

        handles = self._api_retries.ask(hook, found)
        if handles and not labels["deployment"] and not hook.is_host_bound:
            raise self._refusal(
                untrusted,
                f"{', '.join(map(str, handles))} may be its job, or that of another Airflow, since [stepop] "
                "deployment is not set",
            )
        return handles

    def _check_place(self, untrusted: UntrustedRecord) -> None:
        """Check that ``find`` sees the place where the record says that its job is.

        :raises UntrustedRecordError: the job may be on another host, backend or connection
        """
        claimed, request = untrusted.claimed, self._request
        if (claimed.backend, claimed.conn_id) != (request.backend, request.conn_id):
            where = f"{claimed.backend} ({claimed.conn_id})" if claimed.conn_id else claimed.backend
            raise self._refusal(untrusted, f"its job may be on {where}, and this task runs elsewhere")
        hook, handle = self._hook, claimed.handle
        if hook.is_host_bound and handle is not None and handle.scope != hook.scope():
            raise self._refusal(
                untrusted, f"its job may be on the host {handle.scope}, and this is {hook.scope()}"
            )

    def _refusal(self, untrusted: UntrustedRecord, what: str) -> UntrustedRecordError:
        return UntrustedRecordError(
            f"the record of this step in the task's state (key {STATE_KEY!r}) is not used: {untrusted.why}. "
            f"Nothing was started, because a job of this task may run: {what}. To go on, {FORGET_RECORD}"
        )
