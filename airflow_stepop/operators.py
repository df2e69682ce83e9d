"""``RemoteStepOperator``: the arguments, and the places where Airflow calls in.

What happens between them is in ``life.py``; what is asked for is in ``request.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred
from airflow.sdk.serde import allow_class

from airflow_stepop.arguments import check_arguments
from airflow_stepop.exceptions import (
    IntegrityError,
    PayloadError,
    StepConfigError,
    StepFailedError,
    StepInterruptedError,
)
from airflow_stepop.job import JobHandle
from airflow_stepop.life import Collected, StepLife
from airflow_stepop.links import StepLink
from airflow_stepop.payload import hand_over
from airflow_stepop.reraise import to_exception
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.results import StepResult
from airflow_stepop.retries import recovery_arguments
from airflow_stepop.waiting import Deadlines, Pace, Reason

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from airflow_stepop.hooks.base import StepHook

allow_class(StepResult)

ASK_S = 1.0  # longest question to Airflow while it kills this process
DEFER_MARGIN_S = 300.0
HOST_POLL_S = 0.5  # a job on this host is looked at this often: it costs nothing but a file
# Errors that another try would meet again; anything else may be a service that comes back.
FINAL_ERRORS = (StepConfigError, PayloadError, StepFailedError, IntegrityError)


class RemoteStepOperator(BaseOperator):
    """Run a command, or (as ``@task.remote_step``) a function, on other infrastructure and return its value.

    At most one job runs for a task instance, whatever dies meanwhile: the worker, the triggerer, the API
    server. The job is cancelled when the task is ended by a user, cleared, or out of time.

    :param command: program and arguments; files beside the DAG that it names are shipped with it (templated)
    :param inputs: file name -> value or result of another task; written before the command starts (templated)
    :param outputs: files that the command leaves; they become the task's result, a dict by file name
        (templated)
    :param workdir: folder to run in; inputs and outputs are relative to it (templated)
    :param backend: where to run; default: the connection's, else ``[stepop] default_backend``, else ``local``
        (templated)
    :param conn_id: Airflow connection of the backend (templated)
    :param resource_settings: what the step needs (templated)
    :param settings: the backend's own options, as its model or a dict (templated)
    :param image: container image; needs nothing but ``python3`` (templated)
    :param env: environment variables of the step (templated)
    :param include: files or folders beside the DAG to ship, as glob patterns (templated)
    :param timeout: longest run time; enforced by the backend. Default ``[stepop] timeout``, 24 hours
    :param start_timeout: longest time until the step begins. Default: none
    :param store: one of the configured stores, for arguments and results that are too large for the request
        (templated)
    :param deferrable: wait in the triggerer. Default ``[stepop] deferrable``; ``local`` waits in the worker
    :param keep: whether the finished job stays at its service: ``never``, ``failed`` (default) or ``always``
    :param poll_interval: time between two looks at the job. Default ``[stepop] poll_interval``
    """

    template_fields: Sequence[str] = (
        "command", "inputs", "outputs", "workdir", "backend", "conn_id", "resource_settings", "settings",
        "image", "env", "include", "store",
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash", "env": "json", "settings": "json", "resource_settings": "json", "inputs": "py",
    }  # fmt: skip
    operator_extra_links = (StepLink(),)
    takes_step_results = True  # results of other steps arrive as references; see results.py
    ui_color = "#dbe9f6"
    # what a decorated function adds; a command has none of them
    python_callable: Any = None
    op_args: Any = ()
    op_kwargs: Any = MappingProxyType({})

    def __init__(  # noqa: PLR0913 - one argument per thing a user may say; the docstring is their reference
        self,
        *,
        command: Sequence[str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
        workdir: str | None = None,
        backend: str | None = None,
        conn_id: str | None = None,
        resource_settings: ResourceSettings | Mapping[str, Any] | None = None,
        settings: Any = None,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        include: Sequence[str] | None = None,
        timeout: timedelta | float | None = None,
        start_timeout: timedelta | float | None = None,
        store: str | None = None,
        deferrable: bool | None = None,
        keep: str = "failed",
        poll_interval: timedelta | float | None = None,
        retries: int | None = None,
        retry_policy: Any = None,
        retry_delay: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        said = {"retries": retries, "retry_policy": retry_policy, "retry_delay": retry_delay}
        said |= recovery_arguments(said, kwargs.get("default_args") or {})
        super().__init__(**{name: value for name, value in said.items() if value is not None}, **kwargs)
        self.command = command
        self.inputs = inputs
        self.outputs = outputs
        self.workdir = workdir
        self.backend = backend
        self.conn_id = conn_id
        if isinstance(resource_settings, Mapping):
            resource_settings = ResourceSettings.from_dict(resource_settings)
        self.resource_settings = resource_settings
        self.settings = settings
        self.image = image
        self.env = env
        self.include = include
        self.timeout = timeout
        self.start_timeout = start_timeout
        self.store = store
        self.deferrable = deferrable
        self.keep = keep
        self.poll_interval = poll_interval
        if outputs and command is not None:
            self.multiple_outputs = True  # score.output["metrics.json"]
        self.job_url: str | None = None
        self._life: StepLife | None = None
        self._has_retry = False
        self._is_ended = False  # by the user: a submit that is still under way cancels its own job
        self._is_in_doubt = False  # asked to end, and Airflow could not be asked why
        check_arguments(self)

    # -- arguments

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Airflow fills in its own defaults for a mapped task; ours come first."""
        from airflow.sdk.bases.operator import get_merged_defaults, partial
        from airflow.sdk.definitions._internal.contextmanager import DagContext, TaskGroupContext

        dag = kwargs.get("dag") or DagContext.get_current()
        group = kwargs.get("task_group") or (TaskGroupContext.get_current(dag) if dag else None)
        defaults, _ = get_merged_defaults(dag, group, None, kwargs.get("default_args"))
        return partial(cls, **kwargs, **recovery_arguments(kwargs, defaults))

    # -- where Airflow calls in

    def execute(self, context: Context) -> Any:
        life = self._open(context)
        with self._guarded(life, context):
            return self._go_on(life, life.begin(), context)

    def resume(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Called when the trigger has fired. The event says why; the record says which job."""
        life = self._open(context)
        with self._guarded(life, context):
            handle, event = life.resume(), event or {}
            if event.get("job") not in (None, handle.name):
                # A cleared task whose old trigger fired late; seen with SQLite, which gives trigger ids out
                # again.
                self.log.info("This event is about the job %s of an earlier generation", event["job"])
                return self._go_on(life, handle, context)
            reason = Reason(event.get("reason", Reason.FINISHED))
            if reason is Reason.UNREACHABLE:
                raise StepConfigError(
                    f"the triggerer cannot see {handle}: {event.get('error')}. Set deferrable=False"
                )
            if reason is Reason.FINISHED and not life.status(handle).state.is_terminal:
                reason = self._wait_here(life, handle, context)
            return self._end(life, handle, reason, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """A trigger that crashed or timed out leaves the job running: the record leads to it."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning(
            "The trigger failed (%s); waiting for the job here", (next_kwargs or {}).get("error")
        )
        for line in (next_kwargs or {}).get("traceback") or ():
            self.log.warning("%s", line.rstrip())
        life = self._open(context)
        with self._guarded(life, context):
            handle = life.resume()
            return self._end(life, handle, self._wait_here(life, handle, context), context)

    def on_kill(self) -> None:
        """Called in a signal handler, with five seconds to live.

        Ended by the user: cancel. This worker is going away and the task will be tried again: leave the job
        to the next try.
        """
        life, record = self._life, self._life.record if self._life else None
        if life is None or record is None or record.collected is not None:
            return
        state = self._ask_state(life)
        self._is_in_doubt = state is None
        if state in ("running", None) and self._has_retry:
            self.log.info("This worker is ending; the job goes on and the next try attaches to it")
            return
        self._is_ended = True
        self.log.info("The task was ended: cancelling the job of %s", record.name)
        life.cancel()

    def _settle_doubt(self, life: StepLife) -> None:
        """Ask again what ``on_kill`` could not: it may have interrupted a question to Airflow."""
        if self._is_in_doubt and (state := self._ask_state(life)) is not None:
            self._is_in_doubt = False
            if state != "running":
                self.log.info("The task is %s: cancelling its job", state)
                life.cancel()

    # -- between

    def _open(self, context: Context) -> StepLife:
        from airflow_stepop.request import StepRequest

        self._has_retry = bool(context["ti"].try_number <= context["ti"].max_tries)
        self._life = StepLife(
            StepRequest(self, context),
            context["task_state_store"],
            self.log,
            was_killed=lambda: self._is_ended,
        )
        return self._life

    def _go_on(self, life: StepLife, began: JobHandle | Collected, context: Context) -> Any:
        if isinstance(began, Collected):
            self.log.info(
                "An earlier try collected this step's result and was killed before it could return it"
            )
            return self._hand_over(began, life)
        hook = life.request.hook(began.backend, began.conn_id)
        self.job_url = hook.link(began)
        self._settle_doubt(life)
        if self._defers(hook):
            self._defer(life, began, context)
        return self._end(life, began, self._wait_here(life, began, context), context)

    def _end(self, life: StepLife, handle: JobHandle, reason: Reason, context: Context) -> Any:
        self.job_url = life.request.hook(handle.backend, handle.conn_id).link(handle)
        collected = life.finish(handle, reason)
        again = life.resubmission(collected)
        return self._go_on(life, again, context) if again is not None else self._hand_over(collected, life)

    def _hand_over(self, collected: Collected, life: StepLife) -> Any:
        failure = collected.failure
        if failure is None:
            return hand_over(collected.data["result"])
        handle = life.record.handle if life.record else None
        raise to_exception(failure, f"{handle} {self.job_url or ''}".strip() if handle else "")

    def _defers(self, hook: StepHook) -> bool:
        if self.deferrable is not None:
            return self.deferrable
        return conf.getboolean("stepop", "deferrable", fallback=True) and not hook.is_host_bound

    def _deadlines(self, life: StepLife, context: Context) -> Deadlines:
        """Airflow does not enforce ``execution_timeout`` while a task is deferred: we do."""
        limit, begun = self.execution_timeout, context["ti"].start_date
        execution = (
            begun.timestamp() + limit.total_seconds() if limit is not None and begun is not None else None
        )
        return life.deadlines(execution)

    def _defer(self, life: StepLife, handle: JobHandle, context: Context) -> NoReturn:
        from airflow_stepop.triggers import RemoteStepTrigger

        deadlines = self._deadlines(life, context)
        trigger = RemoteStepTrigger(
            handle=handle.to_json(),
            deadlines=deadlines.to_json(),
            poll_interval=life.request.poll_interval_s,
            waiter={**life.request.labels, "map_index": int(life.request.labels["map_index"])},
        )
        left_s = deadlines.execution - time.time() if deadlines.execution is not None else None
        timeout = timedelta(seconds=max(left_s, 0) + DEFER_MARGIN_S) if left_s is not None else None
        self.defer(trigger=trigger, method_name="resume", timeout=timeout)

    def _wait_here(self, life: StepLife, handle: JobHandle, context: Context) -> Reason:
        """Wait in the worker, by the rules of the trigger."""
        from airflow_stepop.triggers import emit

        hook, deadlines = life.request.hook(handle.backend, handle.conn_id), self._deadlines(life, context)
        poll_interval_s = life.request.poll_interval_s
        pace = Pace(min(poll_interval_s, HOST_POLL_S) if hook.is_host_bound else poll_interval_s)
        status, cursor = None, None
        while True:
            try:
                status = hook.status([handle])[handle]
                chunk = hook.logs({handle: cursor}).get(handle)
                pause_s = pace.after_success()
            except StepConfigError:
                raise
            except Exception as error:  # noqa: BLE001, RUF100 - an API error is never a job state, whatever its class
                chunk, pause_s = None, pace.after_error()
                self.log.warning("No news of %s (%s); asking again in %.0f s", handle, error, pause_s)
            if chunk is not None and chunk.lines:
                emit(self.log, chunk.lines)
                cursor = chunk.cursor
                continue
            if reason := deadlines.reason(status, time.time()):
                return reason
            self._pause(life, pause_s)

    def _pause(self, life: StepLife, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while (left_s := end - time.monotonic()) > 0:
            self._settle_doubt(life)
            time.sleep(min(left_s, HOST_POLL_S))

    # -- when something goes wrong

    @contextmanager
    def _guarded(self, life: StepLife, context: Context) -> Iterator[None]:
        """Leave no job behind: either it is cancelled, or a next try will attach to it."""
        try:
            yield
        except TaskDeferred:
            raise
        except AirflowTaskTimeout:
            life.cancel(Reason.EXECUTION_TIMEOUT)
            raise
        except KeyboardInterrupt:  # Ctrl-C in dag.test(), where nobody calls on_kill
            life.cancel()
            raise
        except Exception as error:
            if life.record is None or life.record.collected is not None:
                raise
            if not isinstance(error, FINAL_ERRORS) and self._has_retry:
                raise StepInterruptedError(
                    f"lost touch with {life.record.name}: {error}. It goes on, the next try attaches to it"
                ) from error
            self._cancel_quietly(life)
            raise

    def _cancel_quietly(self, life: StepLife) -> None:
        try:
            life.cancel()
        except Exception as error:  # noqa: BLE001, RUF100 - the first error is the one to show
            self.log.warning("The job may still be running and could not be cancelled: %s", error)

    def _ask_state(self, life: StepLife) -> str | None:
        """Return the task instance's state as Airflow has it, or ``None`` when it does not answer in time.

        In a thread of its own: the signal may have interrupted a question, and the channel is not re-entrant.
        """
        labels = life.request.labels
        answer: list[str | None] = []

        def ask() -> None:
            from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

            map_index = int(labels["map_index"])
            states = RuntimeTaskInstance.get_task_states(
                dag_id=labels["dag_id"],
                task_ids=[labels["task_id"]],
                run_ids=[labels["run_id"]],
                map_index=map_index,
            )
            key = labels["task_id"] if map_index < 0 else f"{labels['task_id']}_{map_index}"
            answer.append(states.get(labels["run_id"], {}).get(key))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ASK_S)
        return answer[0] if answer else None
