"""``airflow stepop``: which backends there are, what one can do, and what a task would send to it.

Airflow imports this module for every one of its commands: it loads nothing before one of ours is run.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow.cli.cli_config import CLICommand
    from pydantic.fields import FieldInfo

    from airflow_stepop.hooks.base import BackendSettings, StepHook
    from airflow_stepop.job import StepSpec
    from airflow_stepop.operators import RemoteStepOperator
    from airflow_stepop.resources import ResourceSettings

Row = dict[str, Any]
PLACEHOLDER = "0" * 64  # stands for the digest of a payload that is never built


def get_commands() -> list[CLICommand]:
    """Return the commands; Airflow finds this function through the provider's description."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

    verbose = Arg(("-v", "--verbose"), help="Show the log too", action="store_true")
    formats = ("table", "json", "yaml")
    table = Arg(
        ("-o", "--output"), help="Format of the output (default: table)", choices=formats, default="table"
    )
    tree = Arg(
        ("-o", "--output"), help="Format of the output (default: yaml)", choices=formats[1:], default="yaml"
    )
    number = Arg(
        ("--map-index",), help="Which instance of a mapped task (default: the first)", type=int, default=0
    )
    file = Arg(("-f", "--dagfile-path"), help="Look for the DAG in this file or folder only")
    ids = (
        Arg(("dag_id",), help="The id of the DAG"),
        Arg(("task_id",), help="The id of a remote step in it"),
    )
    backend = Arg(("backend",), help="A name from: airflow stepop list")
    commands = (
        ("list", "Show the backends, and the connections that reach them", (table, verbose)),
        ("describe", "Show a backend's settings, resources and limits", (backend, table, verbose)),
        (
            "render",
            "Print the request that a task would send to its backend; send nothing",
            (*ids, number, file, tree, verbose),
        ),
    )
    return [
        GroupCommand(
            name="stepop",
            help="Run tasks on other infrastructure (airflow-stepop)",
            subcommands=tuple(
                ActionCommand(
                    name=name, help=text, func=lazy_load_command(f"{__name__}.{name}_command"), args=args
                )
                for name, text, args in commands
            ),
        )
    ]


# --- the commands


def list_command(args: Namespace) -> None:
    """Print every backend: whether it can be used, else what to do, and its connections."""
    from airflow_stepop.registry import describe_backends

    def print_it() -> None:
        connections = usable_connections()
        rows = [
            {
                "backend": backend.name,
                "usable": "yes" if backend.is_available else "no",
                "connections": connections.get(backend.name, []),
                "from": backend.source,
                "what to do": backend.problem,
            }
            for backend in describe_backends()
        ]
        _print_rows(rows, args.output)

    _run(print_it, args)


def describe_command(args: Namespace) -> None:
    """Print what a task can say to one backend."""
    from airflow_stepop.registry import create_hook

    def print_it() -> None:
        hook = create_hook(args.backend)
        described: Row = {
            "backend": hook.backend,
            "inline_limit_bytes": hook.inline_limit,
            "is_host_bound": hook.is_host_bound,
            "settings": list(describe_settings(hook.settings_model)),
            "resources": list(describe_resources(hook)),
        }
        if args.output == "table":
            _print_description(described)
        else:
            _print_tree(described, args.output)

    _run(print_it, args)


def render_command(args: Namespace) -> None:
    """Print a task's native request."""

    def print_it() -> None:
        task = find_task(args.dag_id, args.task_id, args.dagfile_path)
        _print_tree(render_request(task, args.map_index), args.output)

    _run(print_it, args)


# --- list


def usable_connections() -> dict[str, list[str]]:
    """Return backend -> ids of the connections that lead to it, from the database and the environment."""
    found: dict[str, list[str]] = {}
    for conn_id, backend in sorted(set(_stored_connections())):
        found.setdefault(backend, []).append(conn_id)
    return found


def _stored_connections() -> Iterator[tuple[str, str]]:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        connections = list(session.scalars(select(Connection)))
    for name in os.environ:
        if name.startswith("AIRFLOW_CONN_"):
            connections.append(
                Connection.get_connection_from_secrets(name.removeprefix("AIRFLOW_CONN_").lower())
            )
    for connection in connections:
        backend = _backend_of(connection)
        if backend is not None:
            yield connection.conn_id, backend


def _backend_of(connection: Any) -> str | None:
    from airflow_stepop.request import BACKEND_OF_CONNECTION

    return connection.extra_dejson.get("backend") or BACKEND_OF_CONNECTION.get(connection.conn_type)


# --- describe


def describe_settings(model: type[BackendSettings]) -> Iterator[Row]:
    """Yield every option of a backend, with its type, default and description."""
    documented = dict(re.findall(r":param (\w+): (.+?)(?=\n\s*:|\n\s*\n|\Z)", model.__doc__ or "", re.DOTALL))
    for name, field in model.model_fields.items():
        text = field.description or documented.get(name, "")
        yield {
            "setting": name,
            "type": _type_name(field),
            "default": "(required)" if field.is_required() else field.get_default(call_default_factory=True),
            "description": " ".join(text.split()),
        }


def _type_name(field: FieldInfo) -> str:
    kind = field.annotation
    return (
        kind.__name__ if isinstance(kind, type) and "[" not in str(kind) else str(kind).replace("typing.", "")
    )


def describe_resources(hook: StepHook) -> Iterator[Row]:
    """Yield every field of ResourceSettings, and whether the backend takes it: each is rendered."""
    from airflow_stepop.exceptions import UnsupportedError
    from airflow_stepop.resources import ResourceSettings

    examples: Mapping[str, Row] = {
        "cpu_count": {"cpu_count": 1},
        "memory": {"memory": "512MiB"},
        "gpu_count": {"gpu_count": 1},
        "gpu_type": {"gpu_count": 1, "gpu_type": "A100"},
        "disk": {"disk": "1GiB"},
        "shm": {"shm": "64MiB"},
        "nodes": {"nodes": 2},
    }
    for name, example in examples.items():
        note = ""
        try:
            hook.render(_sample_spec(ResourceSettings(**example)))
        except UnsupportedError as error:
            note = str(error)
        yield {"resource": name, "honoured": "no" if note else "yes", "note": note}


def _sample_spec(resources: ResourceSettings) -> StepSpec:
    from airflow_stepop.job import StepSpec

    return StepSpec(name="s-sample", nonce="sample", digest=PLACEHOLDER, labels={}, resources=resources)


# --- render


def find_task(dag_id: str, task_id: str, path: str | None = None) -> Any:
    """Return a task as its DAG file defines it, plain or mapped; no database is read.

    :raises StepConfigError: there is none, or it is not a remote step
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
            raise StepConfigError(f"task {task_id!r} is not a remote step: Airflow runs it itself")
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
    """Return the request that ``task`` would send, as its backend renders it. Nothing is built or sent."""
    from airflow_stepop.request import StepRequest

    context = _context(task, map_index)
    operator = _unmapped(task, context) if task.is_mapped else task.prepare_for_execution()
    context["task"] = context["ti"].task = operator
    _render_fields(operator, context)
    request = StepRequest(operator, context)
    spec = request.spec(f"s-{'0' * 12}", "0" * 16, request.labels, PLACEHOLDER)
    return request.own_hook.render(spec)


class _NoRun:
    """Stands for the task instance: the request is wanted before there is one."""

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
    """Return one instance of a mapped task. What another task's output gives the *function* is left out."""
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
    """Return how many instances a mapped task has, if the DAG file says so."""
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


# --- output


def _run(command: Callable[[], None], args: Namespace) -> None:
    """Run a command without Airflow's log; what the user can mend is one line and not a traceback."""
    from airflow.utils.cli import suppress_logs_and_warning

    from airflow_stepop.exceptions import StepopError

    @suppress_logs_and_warning
    def quiet(_: Namespace) -> None:
        command()

    try:
        quiet(args)
    except StepopError as error:
        raise SystemExit(f"airflow stepop: {error}") from (error if args.verbose else None)


def _print_rows(rows: Sequence[Row], output: str) -> None:
    from airflow.cli.simple_table import AirflowConsole

    AirflowConsole().print_as(
        data=rows, output=output, mapper=lambda row: {k: _shown(v, output) for k, v in row.items()}
    )


def _shown(value: object, output: str) -> object:
    if output == "table":
        is_list = isinstance(value, Iterable) and not isinstance(value, str)
        return ", ".join(map(str, value)) if is_list else ("" if value is None else value)  # type: ignore[call-overload]
    return value


def _print_description(described: Row) -> None:
    print(f"Backend {described['backend']}")
    limit = described["inline_limit_bytes"]
    print(f"  payload inside the request: up to {limit:,} bytes, then a store is needed")
    where = "the host that started them" if described["is_host_bound"] else "any host"
    print(f"  its jobs can be seen from {where}\n")
    print("Settings (settings=...)")
    _print_rows(described["settings"], "table")
    print("\nResources (resource_settings=...)")
    _print_rows(described["resources"], "table")


def _print_tree(data: Row, output: str) -> None:
    import json

    from airflow.utils import yaml

    text = json.dumps(data, indent=2, default=str)
    print(text if output == "json" else yaml.dump(json.loads(text), sort_keys=False).rstrip())
