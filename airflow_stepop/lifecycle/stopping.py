"""Waits for the end of a job that was cancelled. The lifecycle calls :class:`Stopping`.

A service may need half an hour to end a job. The first minute is waited for in the worker, and the rest
without one, where the task may defer. The record says since when and why, so that the resumed task goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_stepop.waiting.deadlines import StopReason

if TYPE_CHECKING:
    from airflow_stepop.job import JobHandle
    from airflow_stepop.lifecycle.api_retries import ApiRetries
    from airflow_stepop.lifecycle.job_client import JobClient
    from airflow_stepop.record import StepRecord

IN_WORKER_S = 60.0  # of a wait in the worker; beyond, the task pauses
PAUSE_S = 30.0  # between two looks at a job that ends slowly
WITHOUT_PAUSE_S = 180.0  # longest wait where the task cannot pause


class Stopping:
    """Waits until cancelled jobs have ended.

    :param save: saves a record
    """

    def __init__(self, jobs: JobClient, api_retries: ApiRetries, save: Callable[[StepRecord], None]) -> None:
        self._jobs = jobs
        self._api_retries = api_retries
        self._save = save

    def limit_s(self, handle: JobHandle) -> float:
        """Return how long the service may need to end a job, seconds."""
        return self._jobs.hook_of(handle).stop_limit_s

    def is_over(
        self,
        record: StepRecord,
        handle: JobHandle,
        reason: StopReason | None = None,
        native_state: str = "",
        *,
        may_pause: bool = True,
    ) -> bool:
        """Wait until a job that was cancelled is terminal or gone; ``False``: it is neither within the limit.

        :param record: the job's record; ``record.stop`` says since when the job is being stopped
        :param reason: the deadline that the job missed; ``None``: another job is to replace it
        :param native_state: the service's own state of the job when the deadline passed
        :param may_pause: ``False``: wait in this worker, and not for long
        :raises TaskDeferred: the wait goes on without this worker
        """
        limit_s = self.limit_s(handle)
        if not may_pause:
            return self._jobs.wait_until_over(handle, min(limit_s, WITHOUT_PAUSE_S))
        began = float(record.stop.get("since", time.time()))
        in_worker_s = began + min(limit_s, IN_WORKER_S) - time.time()
        if self._jobs.wait_until_over(handle, max(in_worker_s, 0.0)):
            return True
        stop = {"since": began, "reason": reason.value if reason else "", "native_state": native_state}
        if began + limit_s > time.time():
            self._save(replace(record.with_handle(handle), stop=stop))
        while (left_s := began + limit_s - time.time()) > 0:
            self._api_retries.pause(min(PAUSE_S, left_s))
            if self._jobs.wait_until_over(handle, 0.0):
                return True
        return False
