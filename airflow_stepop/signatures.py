"""The arguments of ``remote_step`` and what it makes, for type checkers and editors. Nothing runs here.

``decorators.py`` imports it for type checkers only: a DAG file pays nothing for it. A test compares the names
with the operator's and with Airflow's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload

from airflow.sdk import XComArg
from airflow.sdk.bases.decorator import Task

from airflow_stepop.hooks.settings import BackendSettings
from airflow_stepop.oom import MoreMemory
from airflow_stepop.resources import ResourceSettings

P = ParamSpec("P")
R = TypeVar("R")
Duration = timedelta | float
Callback = Callable[[Any], Any] | Sequence[Callable[[Any], Any]]


class StepTask(Task[P, R], Protocol, Generic[P, R]):
    """A function that runs as a remote step: Airflow's task, with ``partial``, ``expand`` and ``override``.

    A call takes the function's arguments, or the results of other tasks in their places. No type says that of
    every parameter, so a checker accepts any arguments. Airflow checks their names when it reads the DAG
    file.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> XComArg: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> XComArg: ...

    def partial(self, **kwargs: Any) -> StepTask[P, R]: ...

    def override(self, **kwargs: Any) -> StepTask[P, R]: ...


class AirflowArguments(TypedDict, total=False):
    """The arguments that every task of Airflow takes."""

    task_id: str
    owner: str
    email: str | Sequence[str] | None
    email_on_retry: bool
    email_on_failure: bool
    retries: int | None
    retry_delay: Duration | None
    retry_exponential_backoff: float
    max_retry_delay: Duration | None
    retry_policy: Any
    start_date: datetime | None
    end_date: datetime | None
    depends_on_past: bool
    ignore_first_depends_on_past: bool
    wait_for_past_depends_before_skipping: bool
    wait_for_downstream: bool
    dag: Any
    params: Mapping[str, Any] | None
    default_args: Mapping[str, Any] | None
    priority_weight: int
    weight_rule: Any
    queue: str
    pool: str | None
    pool_slots: int
    execution_timeout: timedelta | None
    on_execute_callback: Callback | None
    on_failure_callback: Callback | None
    on_success_callback: Callback | None
    on_retry_callback: Callback | None
    on_skipped_callback: Callback | None
    pre_execute: Callable[[Any], Any] | None
    post_execute: Callable[[Any, Any], Any] | None
    trigger_rule: str
    run_as_user: str | None
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    executor: str | None
    executor_config: Mapping[str, Any] | None
    do_xcom_push: bool
    inlets: Any
    outlets: Any
    task_group: Any
    doc: str | None
    doc_md: str | None
    doc_json: str | None
    doc_yaml: str | None
    doc_rst: str | None
    task_display_name: str | None
    logger_name: str | None
    allow_nested_operators: bool
    render_template_as_native_obj: bool | None


class StepArguments(AirflowArguments, total=False):
    """The arguments of a remote step, see :class:`airflow_stepop.operators.RemoteStepOperator`.

    A text may be a template wherever the operator's documentation says "templated".
    """

    backend: str | XComArg | None
    conn_id: str | XComArg | None
    resource_settings: ResourceSettings | Mapping[str, Any] | XComArg | None
    settings: BackendSettings | Mapping[str, Any] | XComArg | str | None
    image: str | XComArg | None
    env: Mapping[str, Any] | XComArg | None
    requirements: Sequence[str] | XComArg | None
    checkpoint: bool
    secrets: Mapping[str, str] | None
    include: Sequence[str] | XComArg | None
    timeout: Duration | None
    start_timeout: Duration | None
    store: str | XComArg | None
    deferrable: bool | None
    keep: Literal["never", "failed", "always"] | None
    on_oom: MoreMemory | Mapping[str, Any] | Literal["fail"]
    max_resubmissions: int | None
    poll_interval: Duration | None
    debug: bool | None
