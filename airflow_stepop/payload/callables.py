"""Inspects a decorated function: its module, its import path, and the context values that it asks for.

Called by ``lifecycle/request.py`` in the worker.
"""

from __future__ import annotations

import inspect
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.payload.code_archive import Project, module_file
from airflow_stepop.runner.failures import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context


class CallArguments(Protocol):
    """The arguments that the DAG passes to the function of a task."""

    @property
    def op_args(self) -> Sequence[object] | None: ...

    @property
    def op_kwargs(self) -> Mapping[str, object] | None: ...


def plain_function(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function that the user wrote, without the decorators that Airflow put around it."""
    from airflow.sdk.bases.decorator import unwrap_callable

    return unwrap_callable(function) if hasattr(function, "_airflow_is_task_decorator") else function


def import_reference(function: Any, project: Project) -> tuple[str, str] | None:
    """Return (module, qualified name) when the step can import ``function``; ``None``: pickle it by value."""
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or "<" in qualname or module == "__main__":
        return None
    file = module_file(module)
    if file is None or file == project.dag_file or module.startswith(PREFIX):
        return None
    if project.contains(file) and not list(project.find(module)):
        return None
    found: object = sys.modules[module]
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return (module, qualname) if found is function else None


def dag_module(project: Project, function: object) -> str:
    """Return the module name under which Airflow loaded the DAG file."""
    name = getattr(function, "__module__", "") or ""
    if name and module_file(name) == project.dag_file:
        return name
    named = [known for known in list(sys.modules) if _may_be(known, project)]
    loaded = [known for known in named if module_file(known) == project.dag_file]
    by_airflow = [known for known in loaded if known.startswith(PREFIX) or known == "__main__"]
    return [*by_airflow, *loaded, name][0]


def _may_be(module: str, project: Project) -> bool:
    return module == "__main__" or module.endswith(project.dag_file.stem)  # to look at each file takes long


def context_arguments(
    function: Callable[..., object], operator: CallArguments, context: Context
) -> dict[str, object]:
    """Return the context values for those parameters that the function names and the DAG does not pass.

    :raises PayloadError: a value exists only inside Airflow, such as ``ti``
    """
    return {name: portable(name, context.get(name)) for name in context_names(function, operator)}


def context_names(function: Callable[..., object], operator: CallArguments) -> list[str]:
    """Return the parameters that get a value of Airflow's context."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return []
    by_position = [name for name, p in parameters.items() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    given = set(operator.op_kwargs or {}) | set(by_position[: len(operator.op_args or ())])
    return [
        name
        for name, p in parameters.items()
        if name in KNOWN_CONTEXT_KEYS
        and name not in given
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def portable(name: str, value: Any) -> object:
    """Return a context value as plain data.

    :raises PayloadError: the value exists only inside Airflow, such as ``ti``
    """
    if hasattr(
        type(value), "__wrapped__"
    ):  # looked up now: a lazy value is not None, but it may stand for None
        value = value.__wrapped__
    if isinstance(value, datetime):
        return datetime.fromisoformat(value.isoformat())
    if name == "params" and hasattr(value, "dump"):
        value = value.dump()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {key: portable(name, item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [portable(name, item) for item in value]
    raise PayloadError(
        f"{name!r} exists only inside Airflow and cannot be sent to a step. Name what you need from it, "
        "such as ds, run_id, params or logical_date, or pass the value as an argument"
    )
