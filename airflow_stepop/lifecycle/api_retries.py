"""Retries of API calls in the worker: transient errors, and submits while a quota is used up.

The lifecycle and its :class:`JobClient` make every call of a hook through :class:`ApiRetries`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from airflow_stepop.exceptions import QuotaError
from airflow_stepop.failure import StepFailedError
from airflow_stepop.lifecycle.failures import without_room
from airflow_stepop.waiting.backoff import Backoff, with_jitter

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import JobHandle, Payload, StepSpec

T = TypeVar("T")
RETRY_LIMIT_S = 600.0  # transient errors of one call are retried for this long
QUOTA_LIMIT_S = 7 * 86400.0  # a task without start_timeout waits this long for room in a quota
QUOTA_PAUSE_S = 120.0  # longest pause between two submits while the quota is used up


class Limits(Protocol):
    """The settings of the task that limit waiting; the operator's request has them."""

    @property
    def start_timeout_s(self) -> float | None: ...

    @property
    def capacity_pause_s(self) -> float: ...

    @property
    def poll_interval_s(self) -> float: ...


@dataclass
class ApiRetries:
    """Retries the calls of one worker session.

    :param limits: the task's settings
    :param log: the task's logger
    :param was_killed: returns whether the user has ended the task; then nothing is retried
    :param pause: called with seconds; waits that long, or defers the task, which raises ``TaskDeferred``
    """

    limits: Limits
    log: Logger
    was_killed: Callable[[], bool]
    pause: Callable[[float], None]
    submitted_at: float = 0.0  # when the last submit began, seconds since the epoch

    def ask(self, hook: StepHook, question: Callable[[], T]) -> T:
        """Return the result of a call to the service; retry transient errors for up to ten minutes.

        :param question: the call, safe to repeat
        :raises Exception: the error of the call: not transient, or the ten minutes are over, or the user has
            ended the task
        """
        backoff, end = Backoff(self.limits.poll_interval_s), time.monotonic() + RETRY_LIMIT_S
        while True:
            try:
                return question()
            except Exception as error:
                pause_s = backoff.after_error()
                if not hook.is_transient(error) or self.was_killed() or time.monotonic() + pause_s > end:
                    raise
                self.log.warning("%s has trouble (%s); asking again in %.0f s", hook.backend, error, pause_s)
                time.sleep(pause_s)

    def submit(self, hook: StepHook, spec: StepSpec, payload: Payload, since: float) -> JobHandle:
        """Submit the job. While a quota is used up, submit again after a pause, under the same job name.

        The limit is ``start_timeout``, or seven days for a task without one.

        :param since: when this generation of the step began, seconds since the epoch
        :raises StepFailedError: the quota had no room within the limit, or the user has ended the task
        """
        limit_s = self.limits.start_timeout_s or QUOTA_LIMIT_S
        while True:
            try:
                return self.ask(hook, lambda: self._submit(hook, spec, payload))
            except QuotaError as error:
                waited_s = max(time.time() - since, 0)
                pause_s = with_jitter(min(max(waited_s, self.limits.capacity_pause_s), QUOTA_PAUSE_S))
                if self.was_killed() or waited_s + pause_s > limit_s:
                    raise StepFailedError(without_room(error), spec.name) from error
                self.log.warning("%s: submitting again in %.0f s", error, pause_s)
                self.pause(pause_s)

    def _submit(self, hook: StepHook, spec: StepSpec, payload: Payload) -> JobHandle:
        self.submitted_at = time.time()
        return replace(hook.submit(spec, payload), nonce=spec.nonce)
