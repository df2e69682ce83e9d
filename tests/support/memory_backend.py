"""A backend in memory. Its jobs do what a test tells them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter

import pytest

from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.base import StepHook, receipt_text
from airflow_stepop.job import (
    FoundJob,
    JobHandle,
    JobState,
    JobStatus,
    LogChunk,
    LogLine,
    OutcomeReport,
    Payload,
    StepSpec,
)
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.record import CallIdentity, StepRecord
from airflow_stepop.record import load_record as load_record_of
from airflow_stepop.record import save_record as save_record_of
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from tests.support.third_party import install_backend


class MemoryHook(StepHook):
    """Has jobs by name. ``calls`` counts the calls of each method. Each call raises ``error`` if set."""

    backend = "memory"
    inline_limit = 2**20

    def __init__(self):
        super().__init__()
        self.jobs: dict[str, JobStatus] = {}
        self.labels: dict[str, dict[str, str]] = {}  # of the jobs that were submitted
        self.outcomes: dict[str, OutcomeReport] = {}
        self.secrets: set[str] = set()  # names of the jobs whose secret input is still there
        self.lines: dict[str, list[str]] = {}
        self.chunk: int | None = None  # lines that one call returns
        self.calls: Counter[str] = Counter()
        self.looked_for: list[StepSpec] = []
        self.largest_batch = 0
        self.error: Exception | None = None
        self.damaged: set[str] = set()  # names of the jobs whose handles cannot be read
        self.damage: type[Exception] = IntegrityError  # the error for these handles
        self.fails_after_submit = False
        self.ignores_cancel = False
        self.threads: set[str] = set()

    def handle(self, name):
        return JobHandle(self.backend, None, "here", name, name)

    def add(self, name, state=JobState.RUNNING, **fields):
        self.jobs[name] = JobStatus(state, **fields)
        return self.handle(name)

    def end(self, name, state=JobState.SUCCEEDED, value=None, failure=None):
        self.jobs[name] = JobStatus(state, failure=failure)
        if value is not None:
            data = json.dumps(value).encode()
            self.outcomes[name] = OutcomeReport(hashlib.sha256(data).hexdigest(), data, "")

    def _called(self, name):
        self.calls[name] += 1
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error

    def render(self, spec):
        return {"name": spec.name}

    def submit(self, spec, payload):
        self._called("submit")
        self.jobs.setdefault(spec.name, JobStatus(JobState.RUNNING, started_at=time.time()))
        self.secrets.add(spec.name)
        self.labels[spec.name] = dict(spec.labels)
        if self.fails_after_submit:
            raise ConnectionResetError("the answer was lost")
        return self.handle(spec.name)

    def lookup(self, spec):
        self._called("lookup")
        self.looked_for.append(spec)
        return self.handle(spec.name) if spec.name in self.jobs else None

    def status(self, handles):
        self._called("status")
        if any(handle.id in self.damaged for handle in handles):
            raise self.damage("the handle of a job is damaged")
        self.largest_batch = max(self.largest_batch, len(handles))
        return {handle: self.jobs.get(handle.id, JobStatus(JobState.GONE)) for handle in handles}

    def logs(self, cursors):
        self._called("logs")
        chunks = {}
        for handle, cursor in cursors.items():
            start = int(cursor or 0)
            lines = self.lines.get(handle.id, [])[start:][: self.chunk]
            if lines:
                own = [LogLine(0.0, line) for line in lines if not line.startswith(RECEIPT_PREFIX)]
                chunks[handle] = LogChunk(own, str(start + len(lines)), receipt_text(lines))
        return chunks

    def tail_of_service(self, handle, count, since=None):
        """Read from the end, as services can that are asked for it."""
        lines, start = self.lines.get(handle.id, []), int(since or 0)
        last = [LogLine(0.0, line) for line in lines[start:][-count:]]
        return LogChunk(last, str(len(lines)))

    def outcome(self, handle):
        self._called("outcome")
        if handle.id not in self.outcomes:
            raise OutcomeLostError("there is none")
        return self.outcomes[handle.id]

    def cancel(self, handle):
        self._called("cancel")
        status = self.jobs.get(handle.id)
        if status is not None and not status.state.is_terminal and not self.ignores_cancel:
            self.jobs[handle.id] = JobStatus(JobState.CANCELLED)

    def delete(self, handle):
        self._called("delete")
        self.secrets.discard(handle.id)
        self.jobs.pop(handle.id, None)

    def delete_secrets(self, handle):
        self._called("delete_secrets")
        self.secrets.discard(handle.id)

    def find(self, labels):
        self._called("find")
        found = [(name, self.labels.get(name, {})) for name in self.jobs]
        return [FoundJob(self.handle(name), own, 0.0) for name, own in found if labels.items() <= own.items()]

    def check(self):
        return []

    @property
    def running(self):
        return [name for name, status in self.jobs.items() if not status.state.is_terminal]


class Registered(MemoryHook):
    """Returns the hook of the test whenever the registry creates a hook of the backend ``memory``."""

    hook: MemoryHook

    def __new__(cls, **_):
        return cls.hook


class MemoryState(dict):
    """A stand-in for Airflow's ``task_state_store``. It holds JSON only."""

    def get(self, key, default=None):
        return json.loads(self[key]) if key in self else default

    def set(self, key, value):
        self[key] = json.dumps(value)


LABELS = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1", "deployment": "prod"}


def load_record(state):
    """Return the record of the one task instance, as its lifecycle loads it."""
    record = load_record_of(state, LABELS)
    assert record is None or isinstance(record, StepRecord), record
    return record


def save_record(state, record):
    save_record_of(state, record, LABELS)


class Request:
    """The request of a task; see ``airflow_stepop.lifecycle.lifecycle.Request``."""

    backend = "memory"
    conn_id = None
    keep = "failed"
    deferrable = None
    poll_interval_s = 0.01
    timeout_s = 60.0
    start_timeout_s = None
    capacity_pause_s = 0.0
    max_resubmissions = 10
    alternatives = ()
    resources = ResourceSettings(cpu_count=2, memory="4GiB")

    def __init__(self, hook, call):
        self._hook = hook
        self.call = call
        self.labels = dict(LABELS)
        self.location = {}

    on_oom = None

    def build(self, record):
        resources = self.resources.at_least(record.memory_bytes)
        spec = StepSpec(
            record.name, record.nonce, record.labels, resources=resources, alternative=record.alternative
        )
        return spec, Payload(b"{}", "")

    def read(self, report, job, nonce):
        return json.loads(report.data)

    def forget_checkpoints(self):
        self._hook.calls["forget_checkpoints"] += 1

    def hook(self, backend, conn_id):
        return self._hook


class Log:
    """Collects what was logged."""

    def __init__(self):
        self.lines = []

    def info(self, text, *args, **fields):
        self.lines.append(text % args if args else text)

    warning = info


@pytest.fixture
def hook():
    return MemoryHook()


@pytest.fixture
def registered(hook, tmp_path, monkeypatch):
    """Install the backend ``memory``, whose hook is ``hook``."""
    install_backend(
        monkeypatch, tmp_path / "site", "memory", f"{Registered.__module__}:{Registered.__name__}"
    )
    monkeypatch.setattr(Registered, "hook", hook, raising=False)


@pytest.fixture
def state():
    return MemoryState()


@pytest.fixture
def new_try(hook, state):
    """Start a try of the task: a lifecycle on the same record and the same service."""

    def start(key="k", max_tries=1, clear_number=0, was_killed=lambda: False, keep="failed", log=None):
        request = Request(hook, CallIdentity(key, max_tries, clear_number))
        request.keep = keep
        return StepLifecycle(request, state, log or Log(), was_killed)

    return start


@pytest.fixture
def preempted():
    return Failure(Category.PREEMPTED, "the machine was taken away")
