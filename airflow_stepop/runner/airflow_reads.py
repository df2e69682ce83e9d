"""Makes the reads of Airflow's Variables, Connections, XComs and context raise a clear error in a step.

A step runs outside of Airflow. Without this module, Airflow's own functions return defaults there, or fail
with errors about Airflow's internals. A value that Airflow finds in the step's environment is returned as
usual: ``AIRFLOW_VAR_*``, ``AIRFLOW_CONN_*``, or a secrets backend that ``AIRFLOW__SECRETS__BACKEND`` names.

Imported by :mod:`.imports` when the step imports Airflow 2 or 3.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OF_VARIABLE = ["get", "set", "update", "delete", "get_variable_from_secrets"]
_OF_XCOM = ["get_one", "get_many", "get_all", "get_value", "set", "delete", "aget_one", "aget_value", "aset"]

# module of Airflow -> what its functions use, and their names
USES = {
    "airflow.sdk.execution_time.context": {
        "Variable": ["_get_variable", "_get_variable_keys", "_set_variable", "_delete_variable"],
        "Connection": ["_get_connection", "_async_get_connection"],
    },
    "airflow.sdk.definitions._internal.contextmanager": {"context": ["_get_current_context"]},
    "airflow.sdk.bases.xcom": {"XCom": [f"BaseXCom.{name}" for name in _OF_XCOM]},
    "airflow.models.variable": {"Variable": [f"Variable.{name}" for name in _OF_VARIABLE]},
    "airflow.models.connection": {"Connection": ["Connection.get_connection_from_secrets"]},
    "airflow.models.xcom": {
        "XCom": [f"{owner}.{name}" for owner in ("BaseXCom", "XComModel") for name in _OF_XCOM]
    },
    "airflow.operators.python": {"context": ["get_current_context"]},
}

# Airflow's errors for a value that is not there, and for a process that Airflow has not started
_MISSING = {
    "AirflowException",
    "AirflowNotFoundException",
    "AirflowRuntimeError",
    "AttributeError",
    "ImportError",
    "OperationalError",
    "RuntimeError",
}

_ADVICE = {
    "Variable": "Pass the value as an argument of the step, '{{{{ var.value.{0} }}}}', or as the environment "
    "variable AIRFLOW_VAR_{1} with env= or secrets=",
    "Connection": "Give the step the environment variable AIRFLOW_CONN_{1} with secrets= or env=, such as "
    "secrets={{'AIRFLOW_CONN_{1}': '{{{{ conn.{0}.get_uri() }}}}'}}",
    "XCom": "Pass the other task's result as an argument of the step: the task's output, or "
    "'{{{{ ti.xcom_pull(\"task_id\") }}}}', also with env= or secrets=",
    "context": "Give the function a parameter with the name of the value (ds, run_id, params), or pass "
    "'{{{{ run_id }}}}' as an argument, or with env= or secrets=",
}


def refuse_reads(module: Any) -> None:
    """Replace the functions of a module of Airflow, if :data:`USES` names some."""
    for kind, paths in USES.get(module.__name__, {}).items():
        for path in paths:
            owner, _, name = path.rpartition(".")
            place = getattr(module, owner, None) if owner else module
            found = vars(place).get(name) if place is not None else None
            if isinstance(found, (classmethod, staticmethod)):
                setattr(place, name, type(found)(_refusing(kind, found.__func__)))
            elif found is not None:
                setattr(place, name, _refusing(kind, found))


def _refusing(kind: str, function: Any) -> Any:
    from functools import wraps
    from inspect import iscoroutinefunction

    @wraps(function)
    async def aread(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            _refuse(kind, function, error, [*args, *kwargs.values()])

    @wraps(function)
    def read(*args: Any, **kwargs: Any) -> Any:
        _enter_task()
        try:
            found = function(*args, **kwargs)
        except Exception as error:
            _refuse(kind, function, error, [*args, *kwargs.values()])
        if found is None and function.__name__ == "get_variable_from_secrets":
            _refuse(kind, function, None, [*args, *kwargs.values()])
        return found

    return aread if iscoroutinefunction(function) else read


def _enter_task() -> None:
    """Let Airflow 3 take this process for a task: its models then ask the environment, and no database."""
    from importlib import import_module

    try:
        task_runner = import_module("airflow.sdk.execution_time.task_runner")
    except ImportError:
        return  # Airflow 2
    vars(task_runner).setdefault("SUPERVISOR_COMMS", None)


def _refuse(kind: str, function: Any, error: Exception | None, args: list[Any]) -> None:
    import os

    if error is not None and type(error).__name__ not in _MISSING:
        raise error
    name = next((arg for arg in args if isinstance(arg, str)), "") if kind != "XCom" else ""
    variable = f"AIRFLOW_{'VAR' if kind == 'Variable' else 'CONN'}_{name.upper()}"
    if variable in os.environ and "get" in function.__name__:
        raise RuntimeError(f"Airflow cannot read the step's environment variable {variable}: wrong format")
    raise RuntimeError(
        f"A step cannot use Airflow's {kind}{f' {name!r}' if name else ''}, because the step runs outside of "
        f"Airflow. {_ADVICE[kind].format(name or 'x', (name or 'x').upper())}"
    ) from None
