"""Calls of a hook for the jobs of one task instance, with retries of transient errors.

The lifecycle and the collector use :class:`JobClient`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from airflow_stepop.job import JobHandle, JobStatus, OutcomeReport, StepSpec
from airflow_stepop.waiting.backoff import Backoff

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.lifecycle.api_retries import ApiRetries
    from airflow_stepop.record import StepRecord


class Hooks(Protocol):
    """The part of the operator's request that makes hooks."""

    @property
    def poll_interval_s(self) -> float: ...

    def hook(self, backend: str, conn_id: str | None) -> StepHook: ...


class JobClient:
    """Reads and ends the jobs of one task instance.

    :param hooks: makes the hook of a backend and connection
    :param api_retries: retries transient errors
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
        """Return the job of a record without a handle, or ``None``. Errors are not retried here."""
        spec = StepSpec(record.name, record.nonce, record.labels, settings=record.location or None)
        handle = self.hook(record).lookup(spec)
        return replace(handle, nonce=record.nonce) if handle is not None else None

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
        """Wait until the job is terminal or gone; return ``False`` if it is neither within ``limit_s``.

        Errors of the service are logged and do not end the wait.
        """
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
