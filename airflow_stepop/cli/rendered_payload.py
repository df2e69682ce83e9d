"""What a task would send, for ``airflow stepop render``: its function or command, its arguments, its files.

Arguments are told by type and size, secrets and variables by name. Values are never shown. Nothing is stored:
the function and the arguments are pickled to see that they can be, and how large they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_stepop.arguments import is_later
from airflow_stepop.exceptions import PayloadError
from airflow_stepop.payload.build import PayloadBuilder, code_entry
from airflow_stepop.payload.call import Call, CommandCall, FunctionCall
from airflow_stepop.payload.callables import (
    context_names,
    dag_module,
    import_reference,
    plain_function,
    portable,
)
from airflow_stepop.payload.code_archive import build_archive, module_file, step_files
from airflow_stepop.payload.requirements import read_requirements
from airflow_stepop.runner.about import describe, type_name
from airflow_stepop.runner.failures import plain

if TYPE_CHECKING:
    from airflow_stepop.cli.output import Row
    from airflow_stepop.lifecycle.request import StepRequest

UNKNOWN = "known only while the DAG runs"
CONTEXT = "a value of Airflow's context"
_CONTAINERS = (list, tuple, set, dict)


class Later:
    """Stands for an argument of a mapped task that only a DAG run knows."""


def describe_payload(request: StepRequest, problems: list[str]) -> Row:
    """Return the payload of a step.

    :param problems: gets the reasons why the step could not be sent
    """
    operator: Any = request.operator
    describe_call = _function if operator.command is None else _command
    described = describe_call(request, problems)
    files, archive = _files(request, problems)
    return {
        **described,
        "files": files,
        "archive_bytes": archive,
        "requirements": read_requirements(operator.requirements, request.project),
        "env": sorted(request.options.env),
        "secrets": sorted(operator.secrets or ()),
    }


def _files(request: StepRequest, problems: list[str]) -> tuple[list[Row], int]:
    operator: Any = request.operator
    try:
        if is_later(operator.command):
            files = step_files(request.project, operator.include or (), argv=[])
        else:
            files = request.files
        archive = build_archive(files)
    except PayloadError as error:
        problems.append(str(error))
        return [], 0
    rows = [{"file": name, "bytes": files[name].stat().st_size} for name in sorted(files)]
    return rows, len(archive or b"")


def _command(request: StepRequest, problems: list[str]) -> Row:
    operator: Any = request.operator
    call = CommandCall(argv=[], inputs={}, outputs=[])
    inputs = operator.inputs if isinstance(operator.inputs, Mapping) else {}
    return {
        "command": list(map(str, operator.command)) if isinstance(operator.command, list) else UNKNOWN,
        "workdir": operator.workdir,
        "inputs": [
            {"input": str(name), **_about(value, call, str(name), problems)} for name, value in inputs.items()
        ],
        "outputs": [str(name) for name in operator.outputs or ()],
    }


def _function(request: StepRequest, problems: list[str]) -> Row:
    operator: Any = request.operator
    function = plain_function(operator.python_callable)
    reference = import_reference(function, request.project)
    call = FunctionCall(
        function=function,
        args=tuple(operator.op_args or ()),
        kwargs=dict(operator.op_kwargs or {}),
        main_module=dag_module(request.project, function),
        reference=reference,
    )
    arguments = [
        {"argument": name, **_about(value, call, name, problems)} for name, value in call.arguments().items()
    ]
    arguments += [_of_context(name, request, problems) for name in context_names(function, operator)]
    return {"function": _code(call, problems), "arguments": arguments}


def _code(call: FunctionCall, problems: list[str]) -> Row:
    function = call.function
    module = getattr(function, "__module__", None) or ""
    file = getattr(getattr(function, "__code__", None), "co_filename", None) or module_file(module)
    described: Row = {
        "name": getattr(function, "__qualname__", type_name(type(function))),
        "module": plain(module),
        "file": None if file is None else str(file),
        "sent": "by value" if call.reference is None else "by name: the step imports the module",
        "bytes": 0,
        "python": None,
    }
    is_needed = call.reference is None or bool(call.dag_globals and call.dag_globals.needed)
    if is_needed:
        try:
            entry = code_entry(function if call.reference is None else None, call, PayloadBuilder())
            described["bytes"] = sum(segment["size"] for segment in entry["segments"])
            described["python"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
        except PayloadError as error:
            problems.append(str(error))
            described["bytes"] = None
    return described


def _of_context(name: str, request: StepRequest, problems: list[str]) -> Row:
    try:
        portable(name, request.context.get(name))
    except PayloadError as error:
        problems.append(str(error))
    return {"argument": name, "type": CONTEXT, "bytes": None}


def _about(value: Any, call: Call, name: str, problems: list[str]) -> Row:
    """Return type and size of an argument. What depends on the DAG run has no size."""
    unknown = _unknown(value)
    if unknown:
        return {"type": unknown, "bytes": None}
    about = plain(describe(value))
    inner = [*_outputs(value), *(["a template"] if _has_template(value) else [])]
    if inner:
        return {"type": f"{about}, with {' and '.join(inner)}", "bytes": None}
    try:
        return {"type": about, "bytes": call.encode(name, value).size}
    except PayloadError as error:
        problems.append(str(error))
        return {"type": about, "bytes": None}


def _unknown(value: Any) -> str:
    """Say where a value comes from that is not known yet; empty for all others."""
    if isinstance(value, str):
        return "a template" if is_later(value) else ""
    if hasattr(value, "iter_references"):
        return next(_outputs(value), UNKNOWN)
    return UNKNOWN if isinstance(value, Later) else ""


def _outputs(value: Any) -> Iterator[str]:
    from airflow.sdk import XComArg

    tasks = sorted({operator.task_id for operator, _ in XComArg.iter_xcom_references(value)})
    if tasks:
        yield f"the output of {', '.join(tasks)}"


def _has_template(value: Any, depth: int = 20) -> bool:
    if not isinstance(value, _CONTAINERS):
        return isinstance(value, str) and is_later(value)
    parts = [*value, *value.values()] if isinstance(value, dict) else list(value)
    return depth > 0 and any(_has_template(part, depth - 1) for part in parts)
