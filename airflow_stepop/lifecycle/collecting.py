"""Collects the outcome of a job that has ended or missed a deadline, and deletes the job as ``keep`` says.

:class:`StepLifecycle` calls the :class:`Collector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_stepop.core.printable import printable
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, OutcomeNotReadyError
from airflow_stepop.failure import Failure
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.failures import (
    as_the_service_saw_it,
    given_up,
    not_arrived,
    refused,
    without_outcome,
)
from airflow_stepop.lifecycle.job_client import JobClient
from airflow_stepop.payload.outcome import outcome_size

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.core.documents import CollectedData, StepUsage
    from airflow_stepop.job import OutcomeReport
    from airflow_stepop.lifecycle.api_retries import ApiRetries
    from airflow_stepop.record import StepRecord
    from airflow_stepop.runner import wire
    from airflow_stepop.waiting.deadlines import StopReason
    from airflow_stepop.waiting.observer import Observer

OUTCOME_LIMIT_S = 900.0  # an outcome that comes later than its job's end is waited for until then
# Pauses between two questions for such an outcome: as long as the job has been over, within these limits
FIRST_OUTCOME_PAUSE_S, OUTCOME_PAUSE_S = 5.0, 60.0


@dataclass(frozen=True)
class Collected:
    """The result or failure of a step, with its usage.

    :param data: JSON as in the record: ``{"result": ...}`` or ``{"failure": ...}``, and ``usage``
    :param own_usage: the backend's own fields of the usage that came with the outcome
    :param is_kept: the job stays at its service, whatever ``keep`` says, because its outcome did not come
    """

    data: CollectedData
    is_kept: bool = False
    own_usage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> Failure | None:
        return Failure.from_json(self.data["failure"]) if "failure" in self.data else None

    @property
    def usage(self) -> StepUsage:
        return self.data.get("usage") or {}


class Reader(Protocol):
    """The part of the operator's request that a collector needs."""

    def read(self, report: OutcomeReport, job: str, nonce: str) -> CollectedData: ...

    def forget_checkpoints(self) -> None: ...


class Collector:
    """Collects the outcomes of one task instance's jobs, and deletes the jobs afterwards.

    :param reader: the operator's request
    :param observer: is told the size of each outcome
    """

    def __init__(
        self, reader: Reader, jobs: JobClient, api_retries: ApiRetries, observer: Observer, log: Logger
    ) -> None:
        self._reader = reader
        self._jobs = jobs
        self._api_retries = api_retries
        self._observer = observer
        self._log = log

    def collect(self, record: StepRecord, handle: JobHandle, status: JobStatus) -> Collected:
        """Return the result or the failure of a terminal job.

        A lost outcome and an outcome that fails verification are returned as failures. An outcome that comes
        a little later than the job's end is waited for, at most ``OUTCOME_LIMIT_S`` after the end.

        :raises TaskDeferred: the wait needs no worker; the resumed task calls this method again
        """
        try:
            report = self._outcome(
                handle, status.finished_at or (record.end.finished_at if record.end else None)
            )
            data = self._reader.read(report, record.name, record.nonce)
            self._observer.outcome_read(record, outcome_size(report))
        except OutcomeLostError as error:
            return Collected({"failure": self._with_tail(without_outcome(status, error), handle)})
        except OutcomeNotReadyError as error:
            failure = not_arrived(status, error, OUTCOME_LIMIT_S)
            return Collected({"failure": self._with_tail(failure, handle)}, is_kept=True)
        except IntegrityError as error:
            return Collected({"failure": refused(status, error).to_json()})
        if "failure" in data:
            failure = as_the_service_saw_it(Failure.from_json(data["failure"]), status)
            data = {**data, "failure": self._with_tail(failure, handle)}
        return Collected(data, own_usage=report.usage)

    def _outcome(self, handle: JobHandle, ended_at: float | None) -> OutcomeReport:
        """Return the outcome as soon as it is there.

        :param ended_at: when the job ended, seconds since the epoch; ``None``: now
        :raises OutcomeNotReadyError: the outcome has not come within the limit
        """
        ended_at = ended_at or time.time()
        while True:
            try:
                return self._jobs.outcome(handle)
            except OutcomeNotReadyError as error:
                waited_s = time.time() - ended_at
                if not -OUTCOME_LIMIT_S < waited_s < OUTCOME_LIMIT_S:  # the service's clock may be wrong
                    raise
                pause_s = error.retry_after_s or min(max(waited_s, FIRST_OUTCOME_PAUSE_S), OUTCOME_PAUSE_S)
                self._log.info("%s: asking again in %.0f s", error, pause_s)
                self._api_retries.pause(pause_s)

    def is_reportable(self, handle: JobHandle, status: JobStatus) -> bool:
        """Return whether a terminal job has an outcome, or an end that the task should report without one.

        The task does not report a failure for which a new job is submitted (``Category.is_replaced``). A step
        that has succeeded never runs again by itself.
        """
        try:
            self._jobs.outcome(handle)
        except OutcomeLostError:
            if status.state is JobState.SUCCEEDED:
                return True
            return status.failure is not None and not status.failure.category.is_replaced
        except OutcomeNotReadyError:
            pass  # collect() waits for it
        return True

    def give_up(
        self,
        record: StepRecord,
        handle: JobHandle,
        reason: StopReason,
        native_state: str,
        wait: Callable[[], object],
    ) -> tuple[Collected, JobStatus | None]:
        """Cancel a job that missed a deadline; return the failure and the job's last status.

        If the job succeeded while it was being cancelled, its result counts, except after
        ``execution_timeout``.

        :param reason: the deadline
        :param native_state: the service's own state of the job when the deadline passed
        :param wait: waits for the end of the cancelled job, within a limit
        """
        self._jobs.cancel(handle)
        wait()
        status = self._last_status(handle)
        if reason.needs_fresh_status and status is not None and status.state is JobState.SUCCEEDED:
            collected = self.collect(record, handle, status)
            if collected.failure is None or collected.failure.has_succeeded:
                return collected, status
        return Collected({"failure": self._with_tail(given_up(reason, native_state), handle)}), status

    def tidy(self, record: StepRecord) -> None:
        """Delete the finished job, or only end it, as ``keep`` says; after a result, delete the checkpoints.

        The secret input of a job goes in any case. Errors are logged and do not fail the task.
        """
        if "result" in (record.collected or {}):
            try:
                self._reader.forget_checkpoints()
            except Exception as error:  # noqa: BLE001, RUF100
                self._log.warning("The checkpoints of this task stay behind: %s", error)
        handle, is_failed = record.handle, "failure" in (record.collected or {})
        if handle is None:
            return
        is_kept = record.keep == "always" or (record.keep == "failed" and is_failed)
        hook = self._jobs.hook_of(handle)
        # other processes or pods of the job may still run after the step has ended
        end, what = (hook.cancel, "ended") if is_kept else (hook.delete, "deleted")
        try:
            self._api_retries.ask(hook, lambda: end(handle))
        except Exception as error:  # noqa: BLE001, RUF100
            self._log.warning("%s could not be %s and stays behind: %s", handle, what, error)
        if is_kept:
            self.delete_secrets(handle)

    def delete_secrets(self, handle: JobHandle) -> None:
        """Delete the secret input of a job that has ended or is being stopped. An error is only logged."""
        try:
            self._jobs.hook_of(handle).delete_secrets(handle)
        except Exception as error:  # noqa: BLE001, RUF100
            self._log.warning("The secret input of %s stays until it is swept: %s", handle, error)

    def _with_tail(self, failure: Failure, handle: JobHandle) -> wire.Failure:
        return replace(failure, log_tail=failure.log_tail or self._tail(handle)).to_json()

    def _tail(self, handle: JobHandle, count: int = 40) -> tuple[str, ...]:
        """Return the last lines that the step printed; empty if the log cannot be read."""
        try:
            lines = self._jobs.hook_of(handle).tail(handle, count).lines
        except Exception as error:  # noqa: BLE001, RUF100
            self._log.warning("The last lines of %s could not be read: %s", handle, error)
            return ()
        return tuple(printable(line.text) for line in lines)

    def _last_status(self, handle: JobHandle) -> JobStatus | None:
        """Return the job's status after its cancellation, or ``None`` if that cannot be read.

        Without the status, the job's usage and times are not reported, and a late result is not collected.
        """
        try:
            return self._jobs.hook_of(handle).status([handle])[handle]
        except Exception as error:  # noqa: BLE001, RUF100
            self._log.warning("The last status of %s could not be read: %s", handle, error)
            return None
