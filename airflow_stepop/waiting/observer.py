"""What an operator of Airflow sees of a step's life: metrics, and every phase with its time when debugging.

Metrics go wherever Airflow's own go (``[metrics]``). Their names and tags are a contract: dashboards match on
them. No value of the user's is ever in a metric or a phase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.printable import printable
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
    _tell("incr", name, value, tags)


def gauge(name: str, value: int, tags: Mapping[str, str]) -> None:
    _tell("gauge", name, value, tags)


def timing(name: str, seconds: float, tags: Mapping[str, str]) -> None:
    _tell("timing", name, timedelta(seconds=max(seconds, 0.0)), tags)


def _tell(kind: str, name: str, value: Any, tags: Mapping[str, str]) -> None:
    try:
        from airflow.sdk.observability.stats import Stats

        getattr(Stats, kind)(name, value, tags=dict(tags))
    except Exception:
        log.debug("The metric %s could not be told", name, exc_info=True)  # a task never fails for a metric


class Observer:
    """Hears of everything that happens to one step in one process.

    :param labels: dag_id and task_id become tags; nothing that is different for every run does
    :param debug: where phases go; ``None``: nowhere
    :param log: where it goes what a job waits for
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
        """Note that something has just happened. Only names, counts, sizes and times may be in it."""
        if self._debug is not None:
            passed_s = time.monotonic() - self._started
            self._debug.info("stepop debug +%.3f s: %s", passed_s, text % args)

    # -- what happens

    def saw(self, status: JobStatus | None) -> None:
        """Note the state of the job when it is another one than the last."""
        if status is not None and status.state is not self._state:
            self._state = status.state
            self.phase("the job is %s", status.state.value)
        if status is not None and _has_news(status) and status.description != self._waits_for:
            self._waits_for = status.description
            if self._log is not None:
                what = "waits" if status.state is JobState.PENDING else "is in trouble"
                self._log.info("The job %s: %s", what, printable(status.description))

    def built(self, payload: Payload) -> None:
        self.phase("payload built: %d parts, %d bytes", len(payload.parts) + 1, _size(payload))

    def stored(self, payload: Payload) -> None:
        inline = payload.inline_bytes
        self.phase(
            "uploaded: %d bytes are in the store, %d go with the request", _size(payload) - inline, inline
        )

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
        self.phase("outcome read: %d bytes of it and its result", size)

    def finished(
        self, record: StepRecord, status: JobStatus | None, category: str, collecting_s: float
    ) -> None:
        """Note the end of a job.

        :param category: why it failed; empty when it did not
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


def _has_news(status: JobStatus) -> bool:
    """Return whether the service says more about a job than that it waits, or runs."""
    return not status.state.is_terminal and bool(status.message)


def _size(payload: Payload) -> int:
    """Return the bytes that the step reads: manifest, code, arguments, and results of other steps."""
    return len(payload.manifest) + sum(part.size for part in payload.parts.values())


def trace_environment(carrier: Any) -> dict[str, str]:
    """Return the W3C trace context for the step's environment.

    :param carrier: the task instance's ``context_carrier``; empty where Airflow traces nothing
    """
    if not isinstance(carrier, Mapping):
        return {}
    names = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}
    return {env: carrier[name] for name, env in names.items() if isinstance(carrier.get(name), str)}
