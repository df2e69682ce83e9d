"""What the lifecycle of a step needs from its neighbours. Type checkers alone use this module.

:class:`Task` is the part of the operator that ``request.py`` uses. :class:`Request` is the part of the
request that ``lifecycle.py`` uses: a test can run a lifecycle without an operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, Protocol

from airflow_stepop.arguments import TaskArguments
from airflow_stepop.job import OutcomeReport, Payload, StepSpec

if TYPE_CHECKING:
    from airflow.sdk import DAG, Context
    from airflow.sdk.definitions._internal.node import DAGNode
    from airflow.sdk.types import Logger
    from airflow.triggers.base import BaseTrigger

    from airflow_stepop.core.documents import CollectedData
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.oom import MoreMemory
    from airflow_stepop.record import CallIdentity, StepRecord
    from airflow_stepop.resources import ResourceSettings


class Task(TaskArguments, Protocol):
    """The operator: the step's arguments, and what the request uses of Airflow's ``BaseOperator``."""

    execution_timeout: timedelta | None
    do_xcom_push: bool
    multiple_outputs: bool
    job_url: str | None

    @property
    def log(self) -> Logger: ...

    @property
    def dag(self) -> DAG: ...

    def iter_mapped_dependants(self) -> Iterator[DAGNode]: ...

    def render_template(self, content: object, context: Context) -> object: ...

    def defer(
        self, *, trigger: BaseTrigger, method_name: str, timeout: timedelta | None = None
    ) -> NoReturn: ...


class Request(Protocol):
    """What the lifecycle needs from the operator; :class:`StepRequest` has it."""

    @property
    def keep(self) -> str: ...

    @property
    def deferrable(self) -> bool | None: ...

    @property
    def call(self) -> CallIdentity: ...

    @property
    def backend(self) -> str: ...

    @property
    def conn_id(self) -> str | None: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def poll_interval_s(self) -> float: ...

    @property
    def timeout_s(self) -> float: ...

    @property
    def start_timeout_s(self) -> float | None: ...

    @property
    def capacity_pause_s(self) -> float: ...

    @property
    def max_resubmissions(self) -> int: ...

    @property
    def alternatives(self) -> Sequence[str]: ...

    @property
    def resources(self) -> ResourceSettings: ...

    @property
    def location(self) -> Mapping[str, object]: ...

    @property
    def on_oom(self) -> MoreMemory | None: ...

    def build(self, record: StepRecord) -> tuple[StepSpec, Payload]:
        """Return the job request for one generation. May write arguments into the store."""

    def read(self, report: OutcomeReport, job: str, nonce: str) -> CollectedData:
        """Verify the outcome; return ``{"result": ...}`` or ``{"failure": ...}``, with its ``usage``."""

    def forget_checkpoints(self) -> None:
        """Delete the checkpoints of earlier tries. Idempotent."""

    def hook(self, backend: str, conn_id: str | None) -> StepHook: ...
