"""``RemoteStepOperator``: its arguments, and the places where Airflow calls in.

DAG files import this module, so it imports little. ``lifecycle/worker.py`` has what a task does in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.mappedoperator import OperatorPartial
from airflow.sdk.serde import allow_class

from airflow_stepop.arguments import check_arguments, check_mapped, check_names
from airflow_stepop.links import OperatorLinks, links_of
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.results import StepResult
from airflow_stepop.retries import mapped_recovery_arguments, recovery_arguments

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_stepop.lifecycle.worker import WorkerSession
    from airflow_stepop.oom import MoreMemory

allow_class(StepResult)


class StepPartial(OperatorPartial):
    """What ``RemoteStepOperator.partial()`` returns: it names the argument that a misspelt one means."""

    def expand(self, **mapped_kwargs: Any) -> MappedOperator:
        check_names(self.operator_class, mapped_kwargs)
        return super().expand(**mapped_kwargs)


class RemoteStepOperator(BaseOperator):
    """Run a command, or (as ``@task.remote_step``) a function, on other infrastructure and return its value.

    At most one job runs for a task instance, whatever dies meanwhile: the worker, the triggerer, the API
    server. The job is cancelled when the task is ended by a user, cleared, or out of time.

    What the task leaves out may come from its connection: ``backend``, ``resource_settings``, ``settings``,
    ``image``, ``env``, ``timeout``, ``start_timeout``, ``store``, ``deferrable``, ``keep``.

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
    :param requirements: Python packages to install before the step starts: a list such as
        ``["scikit-learn==1.5"]``, or the path of a requirements file beside the DAG (templated)
    :param checkpoint: give the step a folder, ``STEPOP_CHECKPOINT_DIR``, that its next try finds again, also
        after preemption or a clear; it is deleted when the step succeeds
    :param secrets: more of them, whose values nobody sees: templates such as
        ``{"HF_TOKEN": "{{ conn.hf.password }}"}``, which are no template field, as Airflow shows those; or
        ARNs of AWS Secrets Manager, which the job reads itself
    :param include: files or folders beside the DAG to ship, as glob patterns (templated)
    :param timeout: longest run time; enforced by the backend. Default ``[stepop] timeout``, 24 hours
    :param start_timeout: longest time until the step begins. Default: none
    :param store: one of the configured stores, for arguments and results that are too large for the request
        (templated)
    :param deferrable: wait in the triggerer. Default ``[stepop] deferrable``; ``local`` waits in the worker
    :param keep: whether the finished job stays at its service: ``never``, ``failed`` or ``always``. Default
        ``failed``. ``airflow stepop sweep`` deletes what stayed, ``[stepop] retention`` days after its end
    :param on_oom: what follows when the step runs out of memory: ``fail`` (default), or ``MoreMemory`` (or a
        dict of its fields), by which the next try asks for more
    :param max_resubmissions: how often a step is submitted again, without a retry, after its machine was lost
        or missing. The count starts anew after an hour of running. Default ``[stepop] max_resubmissions``
    :param poll_interval: time between two looks at the job. Default ``[stepop] poll_interval``,
        else the backend's
    :param debug: log every phase with its time, here and in the step. Default ``[stepop] debug``
    """

    template_fields: Sequence[str] = (
        "command", "inputs", "outputs", "workdir", "backend", "conn_id", "resource_settings", "settings",
        "image", "env", "include", "requirements", "store",
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash", "env": "json", "settings": "json", "resource_settings": "json", "inputs": "py",
    }  # fmt: skip
    takes_step_results = True  # results of other steps arrive as references; see results.py
    ui_color = "#dbe9f6"
    # what a decorated function adds; a command has none of them
    python_callable: Any = None
    op_args: Any = ()
    op_kwargs: Any = MappingProxyType({})

    def __init__(  # noqa: PLR0913, PLR0915 - one argument per thing a user may say; see the docstring
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
        requirements: Sequence[str] | str | None = None,
        checkpoint: bool = False,
        secrets: Mapping[str, str] | None = None,
        include: Sequence[str] | None = None,
        timeout: timedelta | float | None = None,
        start_timeout: timedelta | float | None = None,
        store: str | None = None,
        deferrable: bool | None = None,
        keep: str | None = None,
        on_oom: MoreMemory | Mapping[str, Any] | str = "fail",
        max_resubmissions: int | None = None,
        poll_interval: timedelta | float | None = None,
        debug: bool | None = None,
        retries: int | None = None,
        retry_policy: Any = None,
        retry_delay: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        check_names(type(self), kwargs)
        explicit = {"retries": retries, "retry_policy": retry_policy, "retry_delay": retry_delay}
        explicit |= recovery_arguments({**explicit, **kwargs}, kwargs.get("default_args") or {})
        super().__init__(**{name: value for name, value in explicit.items() if value is not None}, **kwargs)
        self.command = command
        self.inputs = inputs
        self.outputs = outputs
        self.workdir = workdir
        self.backend = backend
        self.conn_id = conn_id
        if isinstance(resource_settings, Mapping):
            resource_settings = ResourceSettings.from_dict(resource_settings)
        self.resource_settings: ResourceSettings | Mapping[str, Any] | None = resource_settings
        self.settings = settings
        self.image = image
        self.env = env
        self.requirements = requirements
        self.checkpoint = checkpoint
        self.secrets = secrets
        self.include = include
        self.timeout = timeout
        self.start_timeout = start_timeout
        self.store = store
        self.deferrable = deferrable
        self.keep = keep
        self.on_oom = on_oom
        self.max_resubmissions = max_resubmissions
        self.poll_interval = poll_interval
        self.debug = debug
        if outputs and command is not None:
            self.multiple_outputs = True  # score.output["metrics.json"]
        self.job_url: str | None = None
        self._session: WorkerSession | None = None
        check_arguments(self)

    operator_extra_links = OperatorLinks(links_of)  # Airflow knows properties

    # -- arguments

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Airflow fills in its own defaults for a mapped task; ours come first."""
        from airflow.sdk.bases.operator import partial

        check_mapped(cls, kwargs)
        made = partial(cls, **kwargs, **mapped_recovery_arguments(kwargs))
        made._expand_called = True  # the partial that takes its place warns if nobody expands it
        return StepPartial(operator_class=cls, kwargs=made.kwargs, params=made.params)

    # -- where Airflow calls in

    def execute(self, context: Context) -> Any:
        return self._run(self._open(context).begin)

    def resume(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Called when the trigger has fired. The event says why; the record says which job."""
        return self._run(self._open(context).resume, event or {})

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """A trigger that crashed or timed out leaves the job running: the record leads to it."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        return self._run(self._open(context).recover, next_kwargs or {})

    def on_kill(self) -> None:
        """Called in a signal handler, with five seconds to live."""
        if self._session is not None:
            self._session.on_kill()

    def _run(self, enter: Callable[..., Any], *args: Any) -> Any:
        """Call an entry point of the session. Raise a failure of the step without the session's frames."""
        try:
            return enter(*args)
        except Exception as error:
            if self._session is None or error is not self._session.error:
                raise
            raise BaseException.with_traceback(error, None)  # noqa: B904 - its cause is set

    def _open(self, context: Context) -> WorkerSession:
        from airflow_stepop.lifecycle.worker import WorkerSession

        self._session = WorkerSession(self, context)
        return self._session
