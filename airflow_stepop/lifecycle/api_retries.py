"""What a worker sits out: trouble of a service that passes, and a quota until there is room in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
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
RETRY_LIMIT_S = 600.0  # longest trouble of a service that a worker sits out
QUOTA_LIMIT_S = 7 * 86400.0  # so long a task without start_timeout waits for room in a quota
QUOTA_PAUSE_S = 120.0  # longest pause between two submits meanwhile


class Limits(Protocol):
    """What the task says of waiting."""

    @property
    def start_timeout_s(self) -> float | None: ...

    @property
    def capacity_pause_s(self) -> float: ...

    @property
    def poll_interval_s(self) -> float: ...


@dataclass
class ApiRetries:
    """How one worker waits for a service.

    :param was_killed: whether the user ended the task meanwhile
    :param pause: waits for so many seconds, or leaves this process with an exception
    """

    limits: Limits
    log: Logger
    was_killed: Callable[[], bool]
    pause: Callable[[float], None]

    def ask(self, hook: StepHook, question: Callable[[], T]) -> T:
        """Return what a service says, once trouble has passed that does pass."""
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
        """Submit, under the same name again while a quota is used up: other jobs make room when they end.

        :param since: when this generation of the step began, seconds since the epoch
        :raises StepFailedError: there was no room in time
        """
        limit_s = self.limits.start_timeout_s or QUOTA_LIMIT_S
        while True:
            try:
                return self.ask(hook, lambda: hook.submit(spec, payload))
            except QuotaError as error:
                waited_s = max(time.time() - since, 0)
                pause_s = with_jitter(min(max(waited_s, self.limits.capacity_pause_s), QUOTA_PAUSE_S))
                if self.was_killed() or waited_s + pause_s > limit_s:
                    raise StepFailedError(without_room(error), spec.name) from error
                self.log.warning("%s: submitting again in %.0f s", error, pause_s)
                self.pause(pause_s)
