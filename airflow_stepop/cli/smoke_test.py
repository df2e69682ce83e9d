"""A step that says whether steps run: ``airflow stepop check --run``."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_stepop.core.printable import printable
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, StepConfigError, is_final
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import Finding, JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.failures import as_the_service_saw_it, refused, without_outcome
from airflow_stepop.payload.outcome import hand_over, read_outcome
from airflow_stepop.payload.spill import bring, spill
from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.stores.configured import configured_store
from airflow_stepop.stores.paths import result_path
from airflow_stepop.waiting.backoff import Pace

if TYPE_CHECKING:
    from airflow_stepop.hooks.base import StepHook

SUBJECT = "run"
LIMIT_S = 300.0  # the first pull of an image is a matter of minutes
END_LIMIT_S = 60.0  # for a job that was cancelled
LAST_LINES = 20
TASK = {"dag_id": "airflow-stepop", "run_id": "check", "task_id": "check", "map_index": "-1"}
LEFT_FIX = "airflow stepop sweep --yes removes it after ten minutes"


def try_step(hook: StepHook, deployment: str, image: str | None, limit_s: float = LIMIT_S) -> list[Finding]:
    """Run a step that does next to nothing, and say how long each phase took, or why it failed.

    Its job is removed, whatever happens; one that is not is a finding too. The service ends it after the
    limit, even when this process is killed.

    :param deployment: the label by which ``sweep`` finds it, should it stay behind after all
    """
    try:
        trial = Trial(hook, _trial_step(hook, deployment, image, limit_s), limit_s)
    except Exception as error:  # noqa: BLE001, RUF100 - whatever a store raises
        return [_not_begun(error)]
    try:
        found = trial.run()
    except BaseException:  # Ctrl-C: nothing shall run on
        trial.remove()
        raise
    return [found, *trial.remove()]


def _not_begun(error: Exception) -> Finding:
    fix = "correct what it names" if isinstance(error, StepConfigError) else "see the other findings"
    return Finding(False, SUBJECT, f"no step could be started: {error or type(error).__name__}", fix)


def _trial_step(hook: StepHook, deployment: str, image: str | None, limit_s: float) -> Step:
    def version() -> str:
        """Return the Python of the step."""
        import platform

        return platform.python_version()

    store, name = configured_store(None), f"s-check-{secrets.token_hex(6)}"
    labels = {"deployment": deployment, **TASK}
    step = make_step(
        version,
        name=name,
        labels=labels,
        image=image,
        timeout_s=limit_s,
        start_timeout_s=limit_s,
        result_uri=store.uri(result_path(labels, name)),
    )
    payload = spill(step.payload, lambda: store, hook.inline_limit)
    return Step(step.spec, payload if hook.is_host_bound else bring(payload, store, hook.inline_limit))


class Trial:
    """One run of a step, from its submission to the end of its job.

    :param limit_s: how long it may take
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
        # by the clock of the service: never before the submission or after the end by ours
        started_s = min(max((status.started_at or began_at) - began_at, submitted_s), ended_s)
        phases = {"submitted": submitted_s, "started": started_s, "ended": ended_s, "outcome read": read_s}
        times = ", ".join(f"{name} after {_shown(after_s)}" for name, after_s in phases.items())
        return Finding(True, SUBJECT, f"a step ran, with Python {found}: {times}")

    def _wait(self, handle: JobHandle, end: float) -> JobStatus | None:
        """Return the last status: terminal, or the one at the end; ``None`` when there was none."""
        pace, status = Pace(self._hook.poll_interval_s), None
        while True:
            try:
                status = self._hook.status([handle])[handle]
                self._last_error, pause_s = "", pace.after_success()
            except Exception as error:  # an API error is never a job state
                if is_final(error):
                    raise
                self._last_error, pause_s = str(error) or type(error).__name__, pace.after_error()
            if (status is not None and status.state.is_terminal) or time.monotonic() >= end:
                return status
            time.sleep(max(min(pause_s, end - time.monotonic()), 0))

    def _outcome(self, handle: JobHandle, status: JobStatus) -> str | Failure:
        spec = self._step.spec
        try:
            data = read_outcome(self._hook.outcome(handle), spec.name, spec.nonce)
            if "failure" in data:
                return as_the_service_saw_it(Failure.from_json(data["failure"]), status)
            return str(hand_over(data["result"]))
        except OutcomeLostError as error:
            return without_outcome(status, error)
        except IntegrityError as error:
            return refused(error)

    def _overdue(self, status: JobStatus | None) -> Failure:
        word = status.description if status else self._last_error
        hint = f"see why it waits; --limit gives it more than {self._limit_s:.0f} s"
        if status is not None and status.state is JobState.RUNNING:
            summary = f"the step runs and was not over after {self._limit_s:.0f} s"
            return Failure(Category.TIMEOUT, summary, word, hint=hint)
        summary = f"the step had not begun after {self._limit_s:.0f} s"
        return Failure(Category.START_TIMEOUT, summary, word, hint=hint)

    def _failed(self, handle: JobHandle, failure: Failure) -> Finding:
        failure = replace(failure, log_tail=failure.log_tail or self._tail(handle))
        fix = failure.hint or "see the last lines of the step"
        return Finding(False, SUBJECT, f"{failure.category}: {failure.describe(str(handle))}", fix)

    def _broken(self, error: Exception) -> Finding:
        message = f"a step was started, and what became of it is not known: {error or type(error).__name__}"
        return Finding(False, SUBJECT, message, "see the other findings")

    def _tail(self, handle: JobHandle) -> tuple[str, ...]:
        try:
            lines = self._hook.tail(handle, LAST_LINES).lines
        except Exception:  # noqa: BLE001, RUF100 - a failure without them is still a failure
            return ()
        return tuple(printable(line.text) for line in lines)

    def remove(self) -> list[Finding]:
        """End and delete the job, if there is one; return what is to be said when that fails."""
        spec = self._step.spec
        try:
            handle = self._handle or self._hook.lookup(spec)
            if handle is not None:
                self._end(handle)
                self._hook.delete(handle)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            message = f"the job {spec.name} may stay behind: {error or type(error).__name__}"
            return [Finding(False, "remove", message, LEFT_FIX)]
        return []

    def _end(self, handle: JobHandle) -> None:
        status = self._hook.status([handle])[handle]
        if not status.state.is_terminal:
            self._hook.cancel(handle)
            self._wait(handle, time.monotonic() + END_LIMIT_S)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
