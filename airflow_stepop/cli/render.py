"""The command ``airflow stepop render``: print what a task would send, without a DAG run and a database."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_stepop.cli.output import TABLES, Row, command, complain, print_rows, print_tree

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.lifecycle.request import StepRequest
    from airflow_stepop.operators import RemoteStepOperator

PLACEHOLDER = "0" * 64  # used as the digest of the payload and of the arguments, which are new for every job


@command
def render_command(args: Namespace) -> None:
    """Print the payload that a task would send, and the request in the format of its backend's service."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_stepop.exceptions import StepConfigError

    task, problems = find_task(args.dag_id, args.task_id, args.dagfile_path), []  # type: Any, list[str]
    try:
        described = render_task(task, args.map_index, problems)
    except AirflowNotFoundException as error:
        raise StepConfigError(f"{error}; the request depends on the defaults of this connection") from error
    if args.output in TABLES:
        _print_tables(described, args.output)
    else:
        print_tree(described, args.output)
    if complain(f"the step cannot be sent: {problem}" for problem in problems):
        raise SystemExit(1)


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
        folder = os.path.dirname(os.path.abspath(path)) if os.path.isfile(path) else os.path.abspath(path)
        sys.path += [folder] if folder not in sys.path else []  # as Airflow does with a bundle
        yield DagBag(path)
        return
    for bundle in DagBundlesManager().get_all_dag_bundles():
        bundle.initialize()
        yield BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)


def render_task(task: Any, map_index: int, problems: list[str]) -> Row:
    """Return the ``payload`` that ``task`` would send, and the ``request`` as its backend renders it.

    Nothing is stored and nothing is sent.

    :param problems: gets the reasons why the payload could not be sent
    """
    from airflow_stepop.cli.rendered_payload import describe_payload

    request = _request_of(task, map_index)
    rendered = _render(request)
    shown = {"payload": describe_payload(request, problems), "request": rendered}
    return cast(Row, _redacted(shown, _sensitive(request.options.env)))


def _sensitive(env: Mapping[str, str]) -> list[str]:
    """Return the values of variables whose names Airflow takes for those of secrets, such as ``API_KEY``."""
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

    return [value for name, value in env.items() if value and should_hide_value_for_key(name)]


def _redacted(value: Any, hidden: Sequence[str]) -> Any:
    """Return what is shown with ``***`` for secrets, as Airflow's page of rendered fields has them.

    A template of ``env=`` may have read a connection. Airflow masks what it knows to be secret.
    """
    from airflow.sdk._shared.secrets_masker import redact

    if isinstance(value, Mapping):
        return {key: _redacted(one, hidden) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(one, hidden) for one in value]
    if not isinstance(value, str):
        return value
    return "***" if value in hidden else redact(value)


def render_request(task: Any, map_index: int = 0) -> Row:
    """Return the request that ``task`` would send, as its backend renders it."""
    return _render(_request_of(task, map_index))


def _request_of(task: Any, map_index: int) -> StepRequest:
    from airflow_stepop.lifecycle.request import StepRequest

    context = _context(task, map_index)
    operator = _unmapped(task, context) if task.is_mapped else task.prepare_for_execution()
    context["task"] = context["ti"].task = operator
    _render_fields(operator, context)
    return StepRequest(operator, context)


def _render(request: StepRequest) -> Row:
    spec = replace(request.spec(f"s-{'0' * 12}", "0" * 16, request.labels), digest=PLACEHOLDER)
    if request.operator.checkpoint:
        spec = replace(spec, checkpoint_uri=request.checkpoint_uri(request.labels, PLACEHOLDER))
    return request.own_hook.render(spec)


# -- tables --------------------------------------------------------------------------------------------------


def _print_tables(described: Row, output: str) -> None:
    payload = described["payload"]
    for name in ("function", "command", "workdir"):
        if payload.get(name):
            given = payload[name]
            fields = given if isinstance(given, Mapping) else {name: given}
            _print_table(name.capitalize(), [{"field": key, "value": fields[key]} for key in fields], output)
    for name in ("arguments", "inputs", "files"):
        if payload.get(name):
            _print_table(name.capitalize(), payload[name], output)
    lists = ("outputs", "requirements", "env", "secrets")
    names = [{"what": name, "name": one} for name in lists for one in payload.get(name, ())]
    if names:
        _print_table("Also sent", names, output)
    rows = [{"field": field, "value": value} for field, value in _flat(described["request"])]
    _print_table("Request", rows, output)


def _print_table(title: str, rows: list[Row], output: str) -> None:
    print(title)
    print_rows(rows, output)
    print()


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of all that a request contains."""
    pairs: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list):
        pairs = ((f"[{index}]", one) for index, one in enumerate(value))
    is_empty = True
    for key, one in pairs:
        is_empty = False
        yield from _flat(one, f"{name}{key}" if str(key).startswith("[") or not name else f"{name}.{key}")
    if is_empty:
        yield name, value


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
    function are a :class:`Later`.

    :raises StepConfigError: the task has no such instance, or another argument needs another task's output
    """
    from airflow_stepop.cli.rendered_payload import Later
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
        values = {"op_kwargs": dict.fromkeys(expanded.value, Later())}
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
