"""The ordinary Airflow task that reads the result of a step: its arguments, and what Airflow shows of them.

Called by ``results`` when an XCom is read.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from itertools import chain
from math import isfinite
from typing import Any

from airflow_stepop.core.printable import printable

SHOWN_VALUES = 5_000  # Airflow cuts the text of a field with more values
log = logging.getLogger(__name__)


def explained(error: Exception, about: str, step: str) -> str:
    """Return the message for a result that cannot be loaded: which argument, from where, why, what to do.

    :param error: the exception of loading
    :param about: the type and size of the value
    :param step: id of the task that returned the value
    """
    task = _running_task()
    names = [name for _, name in _arguments_from(task, step)] if task is not None and step else []
    if names:
        # Otherwise Airflow's page folds the error away, together with what happens before the task's function
        log.info("::endgroup::")
    what = f"{'a' if names else 'A'} result{f' of the step {step!r}' if step else ''} ({about})"
    if names:
        what = f"The argument {' and '.join(map(repr, dict.fromkeys(names)))}, {what},"
    reason = printable(f"{type(error).__name__}: {error}").strip()
    return f"{what} cannot be loaded here: {reason}. {_advice(error)}"


def _advice(error: Exception) -> str:
    other = "read the result in a step (@task.remote_step) whose image has it"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return (
            f"The module {package!r} is missing where this task runs: install its package there, {other}, "
            "or let the step return numbers, texts, lists and dicts, which need no package"
        )
    if isinstance(error, MemoryError):
        return "Read the result in a step with more memory, or let the step return less"
    return (
        "A package of the value may have another version here than in the step: install the same version, "
        f"{other}, or let the step return numbers, texts, lists and dicts"
    )


def leave_out_of_rendered_fields(task: Any, step: str, value: object) -> None:
    """Let a task take NaN, infinity and integers of more than 64 bits, which no rendered field can hold.

    Airflow stores the arguments of a task before it runs, as JSON, and fails if they hold such a number. The
    arguments that this result goes into are not stored then, and the page of rendered templates lacks them.
    """
    if is_json_of_airflow(value):
        return
    fields = {field for field, _ in _arguments_from(task, step)} & set(getattr(task, "template_fields", ()))
    if fields:
        log.info("Airflow cannot show %s: a number in the result of %r is no JSON", ", ".join(fields), step)
        task.template_fields = tuple(name for name in task.template_fields if name not in fields)


def is_json_of_airflow(value: object) -> bool:
    """Return whether Airflow can store the numbers of an argument."""
    stack, count = [value], 0
    while stack and count < SHOWN_VALUES:
        one = stack.pop()
        count += 1
        if isinstance(one, float) and not isfinite(one):
            return False
        if isinstance(one, int) and not -(2**63) <= one < 2**63:
            return False
        if isinstance(one, Mapping):
            stack += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            stack += one
    return True


def _running_task() -> Any:
    from airflow.sdk import get_current_context

    try:
        return get_current_context()["ti"].task
    except RuntimeError:
        return None


def _arguments_from(task: Any, step: str) -> Iterator[tuple[str, str]]:
    """Yield (field, argument) for each argument of ``task`` that Airflow replaces by the step's result."""
    for field, name, value in chain(_arguments(task), _mapped_arguments(task)):
        if _is_from(value, step):
            yield field, name


def _is_from(value: object, step: str) -> bool:
    from airflow.sdk import XComArg

    return any(operator.task_id == step for operator, _ in XComArg.iter_xcom_references(value))


def _arguments(task: Any) -> Iterator[tuple[str, str, object]]:
    for field in getattr(task, "template_fields", ()):
        value = getattr(task, field, None)
        if field == "op_kwargs" and isinstance(value, Mapping):
            yield from ((field, str(name), item) for name, item in value.items())
        elif field == "op_args" and isinstance(value, (list, tuple)):
            names = _parameters(getattr(task, "python_callable", None))
            for index, item in enumerate(value):
                yield field, names[index] if index < len(names) else f"{field}[{index}]", item
        else:
            yield field, field, value


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _mapped_arguments(task: Any) -> Iterator[tuple[str, str, object]]:
    for field in ("expand_input", "op_kwargs_expand_input"):
        value = getattr(getattr(task, field, None), "value", None)
        named = value.items() if isinstance(value, Mapping) else [("expand_kwargs", value)]
        yield from ((field, str(name), item) for name, item in named if value is not None)
    partial = getattr(task, "partial_kwargs", None)
    for name, item in (partial or {}).items() if isinstance(partial, Mapping) else ():
        inner = item.items() if name == "op_kwargs" and isinstance(item, Mapping) else [(name, item)]
        yield from ((name, str(key), one) for key, one in inner)
