"""The job of a step, as its worker asks for it: every call sits out trouble of the service that passes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from airflow_stepop.job import JobHandle, JobStatus, OutcomeReport, StepSpec
from airflow_stepop.waiting.backoff import Backoff

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.lifecycle.api_retries import ApiRetries
    from airflow_stepop.record import StepRecord

STOP_LIMIT_S = 180.0  # longest wait for a cancelled job to end; SageMaker gives a step 120 s to save its work


class Hooks(Protocol):
    """What the task says of its hooks."""

    @property
    def poll_interval_s(self) -> float: ...

    def hook(self, backend: str, conn_id: str | None) -> StepHook: ...


class JobClient:
    """Asks for the jobs of one task instance, and ends them.

    :param hooks: where the jobs are
    :param api_retries: how long transient errors are retried
    """

    def __init__(self, hooks: Hooks, api_retries: ApiRetries, log: Logger) -> None:
        self._hooks = hooks
        self._api_retries = api_retries
        self._log = log

    def hook(self, record: StepRecord) -> StepHook:
        return self._hooks.hook(record.backend, record.conn_id)

    def hook_of(self, handle: JobHandle) -> StepHook:
        return self._hooks.hook(handle.backend, handle.conn_id)

    def lookup(self, record: StepRecord) -> JobHandle | None:
        """Return the job of a record that has no handle. Asks once: trouble is for the caller to sit out."""
        spec = StepSpec(record.name, record.nonce, record.labels, settings=record.location or None)
        return self.hook(record).lookup(spec)

    def status(self, handle: JobHandle) -> JobStatus:
        hook = self.hook_of(handle)
        return self._api_retries.ask(hook, lambda: hook.status([handle])[handle])

    def outcome(self, handle: JobHandle) -> OutcomeReport:
        hook = self.hook_of(handle)
        return self._api_retries.ask(hook, lambda: hook.outcome(handle))

    def cancel(self, handle: JobHandle) -> None:
        hook = self.hook_of(handle)
        self._api_retries.ask(hook, lambda: hook.cancel(handle))

    def wait_until_over(self, handle: JobHandle, limit_s: float) -> bool:
        """Wait until ``handle`` is terminal or gone; return whether it is, within ``limit_s``."""
        hook, backoff = self.hook_of(handle), Backoff(self._hooks.poll_interval_s)
        end = time.monotonic() + limit_s
        while True:
            try:
                is_over = hook.status([handle])[handle].state.is_terminal
                pause_s = backoff.after_success()
            except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state
                is_over, pause_s = False, backoff.after_error()
                self._log.warning("No status of %s: %s", handle, error)
            if is_over:
                return True
            if time.monotonic() + pause_s > end:
                return False
            time.sleep(pause_s)
