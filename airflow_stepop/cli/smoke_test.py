"""The smoke test of ``airflow stepop check --run``: submit a small step, wait for it, and read its outcome.

``cli/check.py`` calls ``run_smoke_test``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.core.printable import printable
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, StepConfigError, is_final
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import Finding, JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.failures import as_the_service_saw_it, refused, without_outcome
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import make_reachable, spill
from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.stores.configured import step_store
from airflow_stepop.stores.paths import result_path
from airflow_stepop.waiting.backoff import Backoff

if TYPE_CHECKING:
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.stores.base import Store

SUBJECT = "run"
LIMIT_S = 300.0  # the first pull of an image can take minutes
END_LIMIT_S = 60.0  # how long to wait for the end of a job after cancelling it
LAST_LINES = 20
TASK = {"dag_id": "airflow-stepop", "run_id": "check", "task_id": "check", "map_index": "-1"}
LEFT_FIX = "airflow stepop sweep --yes removes it after ten minutes"


def run_smoke_test(
    hook: StepHook,
    deployment: str,
    image: str | None,
    limit_s: float = LIMIT_S,
    given: Mapping[str, Any] | None = None,
    store: Store | None = None,
) -> list[Finding]:
    """Run a step that does almost nothing; report the time of each phase, or the reason of the failure.

    The job is always removed. If the removal fails, that is a second finding. The service ends the job after
    the limit, even if this process is killed.

    :param deployment: a label of the job, by which ``sweep`` finds a job that was not removed
    :param limit_s: limit in seconds from the submission to the end; also the job's ``timeout`` and
        ``start_timeout``
    :param given: what the connection gives to the request: fields of a :class:`StepSpec`
    :param store: the store that the connection names; ``None``: that of a step without a connection
    """
    fields = {**(given or {}), **({"image": image} if image else {})}
    try:
        store = step_store(None, hook.store_scheme, store)
        trial = SmokeTest(hook, _trial_step(hook, deployment, limit_s, fields, store), limit_s)
    except Exception as error:  # noqa: BLE001, RUF100 - whatever a store raises
        return [_not_begun(error)]
    try:
        found = trial.run()
    except BaseException:  # Ctrl-C: do not leave a running job behind
        trial.remove()
        raise
    return [found, *trial.remove()]


def _not_begun(error: Exception) -> Finding:
    fix = (
        "correct the setting that it names"
        if isinstance(error, StepConfigError)
        else "see the other findings"
    )
    return Finding(False, SUBJECT, f"no step could be started: {error or type(error).__name__}", fix)


def _trial_step(
    hook: StepHook, deployment: str, limit_s: float, fields: Mapping[str, Any], store: Store
) -> Step:
    def version() -> str:
        """Return the version of the step's Python."""
        import platform

        return platform.python_version()

    nonce = secrets.token_hex(16)
    name = f"s-check-{nonce_hash(nonce)}"  # a job whose name does not belong to its nonce is not ours
    labels = {"deployment": deployment, **TASK}
    step = make_step(
        version,
        name=name,
        nonce=nonce,
        labels=labels,
        timeout_s=limit_s,
        start_timeout_s=limit_s,
        result_uri=store.uri(result_path(labels, name)),
        **fields,
    )
    payload = spill(step.payload, lambda: store, hook.inline_limit)
    return Step(
        step.spec, payload if hook.is_host_bound else make_reachable(payload, store, hook.inline_limit)
    )


class SmokeTest:
    """One run of a step, from its submission to the end of its job.

    :param limit_s: how many seconds the job may take from its submission to its end
    """

    def __init__(self, hook: StepHook, step: Step, limit_s: float) -> None:
        self._hook = hook
        self._step = step
        self._limit_s = limit_s
        self._handle: JobHandle | None = None
        self._last_error = ""

    def run(self) -> Finding:
        began, began_at = time.monotonic(), time.time()
        try:
            handle = self._handle = self._hook.submit(self._step.spec, self._step.payload)
            submitted_s = time.monotonic() - began
            status = self._wait(handle, began + self._limit_s)
            if status is None or not status.state.is_terminal:
                return self._failed(handle, self._overdue(status))
            ended_s = time.monotonic() - began
            found = self._outcome(handle, status)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            return _not_begun(error) if self._handle is None else self._broken(error)
        if isinstance(found, Failure):
            return self._failed(handle, found)
        read_s = time.monotonic() - began
        # The service's clock gives the start, this host's clock the rest: keep the start between them
        started_s = min(max((status.started_at or began_at) - began_at, submitted_s), ended_s)
        phases = {"submitted": submitted_s, "started": started_s, "ended": ended_s, "outcome read": read_s}
        times = ", ".join(f"{name} after {_shown(after_s)}" for name, after_s in phases.items())
        return Finding(True, SUBJECT, f"a step ran, with Python {found}: {times}")

    def _wait(self, handle: JobHandle, end: float) -> JobStatus | None:
        """Poll until the job has ended or until ``end``; return the last status, or ``None`` without one.

        :param end: a time of ``time.monotonic()``
        """
        backoff, status = Backoff(self._hook.poll_interval_s), None
        while True:
            try:
                status = self._hook.status([handle])[handle]
                self._last_error, pause_s = "", backoff.after_success()
            except Exception as error:  # an API error is never a job state
                if is_final(error):
                    raise
                self._last_error, pause_s = str(error) or type(error).__name__, backoff.after_error()
            if (status is not None and status.state.is_terminal) or time.monotonic() >= end:
                return status
            time.sleep(max(min(pause_s, end - time.monotonic()), 0))

    def _outcome(self, handle: JobHandle, status: JobStatus) -> str | Failure:
        spec = self._step.spec
        try:
            data = read_outcome(self._hook.outcome(handle), spec.name, spec.nonce)
            if "failure" in data:
                return as_the_service_saw_it(Failure.from_json(data["failure"]), status)
            return str(to_xcom(data["result"]))
        except OutcomeLostError as error:
            return without_outcome(status, error)
        except IntegrityError as error:
            return refused(status, error)

    def _overdue(self, status: JobStatus | None) -> Failure:
        native_state = status.description if status else self._last_error
        hint = f"find out why it waits, or give it more than {self._limit_s:.0f} s with --limit"
        if status is not None and status.state is JobState.RUNNING:
            summary = f"the step was still running after {self._limit_s:.0f} s"
            return Failure(Category.TIMEOUT, summary, native_state, hint=hint)
        summary = f"the step had not begun after {self._limit_s:.0f} s"
        return Failure(Category.START_TIMEOUT, summary, native_state, hint=hint)

    def _failed(self, handle: JobHandle, failure: Failure) -> Finding:
        failure = replace(failure, log_tail=failure.log_tail or self._tail(handle))
        fix = failure.hint or "see the last lines of the step"
        return Finding(False, SUBJECT, f"{failure.category}: {failure.describe(str(handle))}", fix)

    def _broken(self, error: Exception) -> Finding:
        message = f"a step was started, but its outcome is unknown: {error or type(error).__name__}"
        return Finding(False, SUBJECT, message, "see the other findings")

    def _tail(self, handle: JobHandle) -> tuple[str, ...]:
        try:
            lines = self._hook.tail(handle, LAST_LINES).lines
        except Exception:  # noqa: BLE001, RUF100 - the failure is reported without the last lines
            return ()
        return tuple(printable(line.text) for line in lines)

    def remove(self) -> list[Finding]:
        """Cancel and delete the job if there is one; return a finding if that fails."""
        spec = self._step.spec
        try:
            handle = self._handle or self._hook.lookup(spec)
            if handle is not None:
                self._end(handle)
                self._hook.delete(handle)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            message = f"the job {spec.name} may still exist: {error or type(error).__name__}"
            return [Finding(False, "remove", message, LEFT_FIX)]
        return []

    def _end(self, handle: JobHandle) -> None:
        status = self._hook.status([handle])[handle]
        if not status.state.is_terminal:
            self._hook.cancel(handle)
            self._wait(handle, time.monotonic() + END_LIMIT_S)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
