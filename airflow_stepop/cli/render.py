"""The command ``airflow stepop render``: print the request of a task, without a DAG run and a database."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_stepop.cli.output import Row, command, print_tree

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.operators import RemoteStepOperator

PLACEHOLDER = "0" * 64  # used as the digest of the payload and of the arguments, which are never built


@command
def render_command(args: Namespace) -> None:
    """Print the request that a task would send, in the format of its backend's service."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_stepop.exceptions import StepConfigError

    task = find_task(args.dag_id, args.task_id, args.dagfile_path)
    try:
        request = render_request(task, args.map_index)
    except AirflowNotFoundException as error:
        raise StepConfigError(f"{error}; the request depends on the defaults of this connection") from error
    print_tree(request, args.output)


def find_task(dag_id: str, task_id: str, path: str | None = None) -> Any:
    """Return a task as its DAG file defines it, mapped or not. No database is read.

    :param path: a DAG file or folder; ``None`` searches the configured DAG bundles
    :raises StepConfigError: the DAG or the task does not exist, or the task is not a remote step
    """
    from airflow_stepop.exceptions import StepConfigError
    from airflow_stepop.operators import RemoteStepOperator

    problems: list[str] = []
    for bag in _dag_bags(path):
        dag = bag.dags.get(dag_id)
        if dag is None:
            problems += [
                f"{file}: {error.strip().splitlines()[-1]}" for file, error in bag.import_errors.items()
            ]
            continue
        if task_id not in dag.task_dict:
            raise StepConfigError(
                f"DAG {dag_id!r} has no task {task_id!r}; it has {', '.join(dag.task_dict)}"
            )
        task = dag.task_dict[task_id]
        if not issubclass(getattr(task, "operator_class", type(task)), RemoteStepOperator):
            raise StepConfigError(f"task {task_id!r} is not a remote step; Airflow runs it itself")
        return task
    broken = "".join(f"\n  not loaded: {problem}" for problem in problems)
    raise StepConfigError(f"no DAG {dag_id!r} in {path or 'the DAG bundles'}{broken}")


def _dag_bags(path: str | None) -> Iterator[Any]:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, DagBag

    if path is not None:
        yield DagBag(path)
        return
    for bundle in DagBundlesManager().get_all_dag_bundles():
        bundle.initialize()
        yield BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)


def render_request(task: Any, map_index: int = 0) -> Row:
    """Return the request that ``task`` would send, as its backend renders it.

    No payload is built and nothing is sent.
    """
    from airflow_stepop.lifecycle.request import StepRequest

    context = _context(task, map_index)
    operator = _unmapped(task, context) if task.is_mapped else task.prepare_for_execution()
    context["task"] = context["ti"].task = operator
    _render_fields(operator, context)
    request = StepRequest(operator, context)
    spec = request.spec(f"s-{'0' * 12}", "0" * 16, request.labels, PLACEHOLDER)
    if operator.checkpoint:
        spec = replace(spec, checkpoint_uri=request.checkpoint_uri(request.labels, PLACEHOLDER))
    return request.own_hook.render(spec)


class _NoRun:
    """A stand-in for the task instance, because the request is rendered without a DAG run."""

    run_id = "manual__render"
    try_number, max_tries, start_date, task = 1, 0, None, None

    def __init__(self, dag_id: str, task_id: str, map_index: int) -> None:
        self.dag_id, self.task_id, self.map_index = dag_id, task_id, map_index

    def xcom_pull(self, task_ids: object = None, **_: object) -> NoReturn:
        from airflow_stepop.exceptions import StepConfigError

        raise StepConfigError(f"the output of {task_ids!r} is known only while the DAG runs")


def _context(task: Any, map_index: int) -> Any:
    from datetime import UTC, datetime

    from airflow.sdk.execution_time.context import ConnectionAccessor, VariableAccessor

    now = datetime.now(UTC)
    dag = task.dag
    ti = _NoRun(dag.dag_id, task.task_id, map_index if task.is_mapped else -1)
    params = {**dag.params.dump(), **dict(getattr(task, "params", None) or {})}
    return {
        "dag": dag,
        "task": task,
        "ti": ti,
        "task_instance": ti,
        "params": params,
        "run_id": ti.run_id,
        "logical_date": now,
        "ds": now.strftime("%Y-%m-%d"),
        "ds_nodash": now.strftime("%Y%m%d"),
        "ts": now.isoformat(),
        "conn": ConnectionAccessor(),
        "var": {"value": VariableAccessor(False), "json": VariableAccessor(True)},
    }


def _unmapped(task: Any, context: Any) -> RemoteStepOperator:
    """Return one instance of a mapped task.

    If an expanded argument of the *function* needs another task's output, all expanded arguments of the
    function are ``None``. The request does not contain them.

    :raises StepConfigError: the task has no such instance, or another argument needs another task's output
    """
    from airflow_stepop.exceptions import StepConfigError

    count, wanted = _instances(task._get_specified_expand_input().value), context["ti"].map_index
    if count is not None and not 0 <= wanted < count:
        raise StepConfigError(f"task {task.task_id!r} has no instance {wanted}; it has {count}, from 0")
    expanded = getattr(task, "op_kwargs_expand_input", None)
    try:
        values, _ = task._expand_mapped_kwargs(context)
    except StepConfigError:
        if expanded is None or not isinstance(expanded.value, Mapping):
            raise
        values = {"op_kwargs": dict.fromkeys(expanded.value)}
    operator: RemoteStepOperator = task.unmap(values)
    return operator


def _instances(value: Any) -> int | None:
    """Return how many instances a mapped task has; ``None`` if only a DAG run knows the number."""
    if isinstance(value, Mapping):
        lists = [item for item in value.values() if isinstance(item, Sized)]
        return math.prod(map(len, lists)) if len(lists) == len(value) else None
    return len(value) if isinstance(value, Sized) else None


def _render_fields(operator: RemoteStepOperator, context: Any) -> None:
    from airflow_stepop.operators import RemoteStepOperator

    fields = [
        name for name in RemoteStepOperator.template_fields if name not in ("command", "inputs", "outputs")
    ]
    operator._do_render_template_fields(operator, fields, context, operator.get_template_env(), set())
