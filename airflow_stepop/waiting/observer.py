"""Metrics of a step, and its phases with their times in the debug log.

The worker's lifecycle and the trigger report to one :class:`Observer` each; the watcher calls the metric
functions directly.

Metrics go to the same backend as Airflow's own metrics (``[metrics]``). Their names and tags are a contract,
because dashboards match on them. No user value ever appears in a metric or a phase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.printable import printable
from airflow_stepop.core.units import shown_size
from airflow_stepop.job import JobState

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.job import JobStatus, Payload
    from airflow_stepop.record import StepRecord

log = logging.getLogger(__name__)

SUBMITTED = "stepop.submitted"
ATTACHED = "stepop.attached"
RESUBMITTED = "stepop.resubmitted"
FINISHED = "stepop.finished"
PENDING_TIME = "stepop.pending_time"
RUNNING_TIME = "stepop.running_time"
COLLECTING_TIME = "stepop.collecting_time"
BYTES_IN = "stepop.bytes_in"
BYTES_OUT = "stepop.bytes_out"
WATCHER_CALLS = "stepop.watcher.status_calls"
WATCHER_ERRORS = "stepop.watcher.status_errors"
WATCHER_JOBS = "stepop.watcher.jobs"


def count(name: str, value: int, tags: Mapping[str, str]) -> None:
    """Add ``value`` to a counter."""
    _report("incr", name, value, tags)


def gauge(name: str, value: int, tags: Mapping[str, str]) -> None:
    """Set a gauge to ``value``."""
    _report("gauge", name, value, tags)


def timing(name: str, seconds: float, tags: Mapping[str, str]) -> None:
    """Record a duration; a negative one (two hosts' clocks differ) counts as 0."""
    _report("timing", name, timedelta(seconds=max(seconds, 0.0)), tags)


def _report(kind: str, name: str, value: Any, tags: Mapping[str, str]) -> None:
    try:
        from airflow.sdk.observability.stats import Stats

        getattr(Stats, kind)(name, value, tags=dict(tags))
    except Exception:
        log.debug("Could not send the metric %s", name, exc_info=True)  # a task never fails for a metric


class Observer:
    """Receives the events of one step in one process; turns them into metrics and log lines.

    :param labels: ``dag_id`` and ``task_id`` become tags. Labels that differ for every run do not, since each
        value would make a new time series
    :param debug: the logger for phases; ``None``: phases are not logged
    :param log: the logger for the reason why a job waits or is in trouble; ``None``: the reason is not logged
    """

    def __init__(
        self, labels: Mapping[str, str], debug: Logger | None = None, log: Logger | None = None
    ) -> None:
        self._tags = {name: labels[name] for name in ("dag_id", "task_id")}
        self._debug = debug
        self._log = log
        self._waits_for = ""
        self._started = time.monotonic()
        self._state: JobState | None = None

    def phase(self, text: str, *args: Any) -> None:
        """Log that a phase has just ended. The text may hold only names, counts, sizes and times."""
        if self._debug is not None:
            passed_s = time.monotonic() - self._started
            self._debug.info("stepop debug +%.3f s: %s", passed_s, text % args)

    # -- events

    def status_seen(self, status: JobStatus | None) -> None:
        """Log the job's state when it has changed, and each new reason why the job waits or is in trouble."""
        if status is not None and status.state is not self._state:
            self._state = status.state
            self.phase("the job is %s", status.state.value)
        if status is not None and _is_explained(status) and status.description != self._waits_for:
            self._waits_for = status.description
            if self._log is not None:
                what = "waits" if status.state is JobState.PENDING else "is in trouble"
                self._log.info("The job %s: %s", what, printable(status.description))

    def built(self, payload: Payload) -> None:
        self.phase("payload built: %d parts, %s", len(payload.parts) + 1, shown_size(_size(payload)))

    def stored(self, payload: Payload) -> None:
        inline = payload.inline_bytes
        there, here = shown_size(_size(payload) - inline), shown_size(inline)
        self.phase("uploaded: %s to the store, %s go with the request", there, here)

    def submitted(self, record: StepRecord, payload: Payload) -> None:
        tags = self._of(record)
        count(SUBMITTED, 1, tags)
        count(BYTES_IN, _size(payload), tags)

    def attached(self, record: StepRecord) -> None:
        count(ATTACHED, 1, self._of(record))
        self.phase("attached")

    def resubmitted(self, record: StepRecord, category: str) -> None:
        count(RESUBMITTED, 1, {**self._of(record), "category": category})

    def outcome_read(self, record: StepRecord, size: int) -> None:
        count(BYTES_OUT, size, self._of(record))
        self.phase("outcome read: %s with its result", shown_size(size))

    def finished(
        self, record: StepRecord, status: JobStatus | None, category: str, collecting_s: float
    ) -> None:
        """Report the end of a job.

        :param category: why the job failed; empty when it succeeded
        :param collecting_s: seconds from the end of waiting until the outcome was saved
        """
        tags = self._of(record)
        state = "failed" if category else "success"
        count(FINISHED, 1, {**tags, "state": state, "category": category or "none"})
        timing(COLLECTING_TIME, collecting_s, tags)
        if status is not None and status.started_at is not None:
            if record.submitted_at is not None:
                timing(PENDING_TIME, status.started_at - record.submitted_at, tags)
            if status.finished_at is not None:
                timing(RUNNING_TIME, status.finished_at - status.started_at, tags)
        self.phase("collected: %s", category or "success")

    def _of(self, record: StepRecord) -> dict[str, str]:
        return {"backend": record.backend, **self._tags}


def _is_explained(status: JobStatus) -> bool:
    """Return whether the service explains the state of a job that is not terminal."""
    return not status.state.is_terminal and bool(status.message)


def _size(payload: Payload) -> int:
    """Return the bytes that the step reads: the manifest, code, arguments and results of other steps."""
    return len(payload.manifest) + sum(part.size for part in payload.parts.values())


def trace_environment(carrier: Any) -> dict[str, str]:
    """Return the W3C trace context for the step's environment.

    :param carrier: the task instance's ``context_carrier``; empty when Airflow's tracing is off
    """
    if not isinstance(carrier, Mapping):
        return {}
    names = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}
    return {env: carrier[name] for name, env in names.items() if isinstance(carrier.get(name), str)}
