"""Pickles the function and the arguments of a step, in the worker. Called by :mod:`.build` and :mod:`.call`.

Functions and classes of the DAG file are pickled by value. Results of other tasks become references, and are
never loaded here.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.results import StepResult
from airflow_stepop.runner.by_value import ByValue, WithNames
from airflow_stepop.runner.pickling import REF, reduce_view


@dataclass
class DagGlobals:
    """The globals of the DAG file, and those of them that the arguments of a call need in the step.

    The pickle of the function brings all of them. So a class is the same class in all arguments and in the
    function.
    """

    module: str
    values: dict[str, Any]
    needed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: str, function: object) -> DagGlobals | None:
        """Return the globals of the module that ``function`` belongs to; ``None``: the module is not loaded.

        ``airflow dags test`` imports the DAG file twice: the function's own globals are the right ones.
        """
        own = getattr(function, "__globals__", {})
        if module and own.get("__name__") != module:
            own = getattr(sys.modules.get(module), "__dict__", {})
        return cls(module, own) if module and own else None


def dumps(
    value: object,
    keep: Callable[[object], object] | None,
    main_module: str,
    refs: list[StepResult],
    dag_globals: DagGlobals | None = None,
) -> bytes:
    """Pickle with cloudpickle. Earlier steps' results inside ``value`` are appended to ``refs``.

    :param keep: takes the out-of-band buffers (PEP 574); ``None``: all bytes are in the pickle
    :param dag_globals: collects what ``value`` needs of the DAG file, for :func:`dump_code`; ``None``: the
        pickle holds all of it
    :raises Exception: ``value`` cannot be pickled
    """
    buffer = io.BytesIO()
    needed = dag_globals.needed if dag_globals is not None else None
    _dump(value, _pickler(buffer, keep, refs), main_module, dag_globals, needed)
    return buffer.getvalue()


def dump_code(
    function: object, main_module: str, refs: list[StepResult], dag_globals: DagGlobals | None
) -> bytes:
    """Pickle a function by value, together with what the call's arguments need of the DAG file."""
    buffer = io.BytesIO()
    _dump(function, _pickler(buffer, None, refs), main_module, dag_globals, None)
    return buffer.getvalue()


def can_pickle(
    value: object,
    visit: Callable[[object], None],
    main_module: str,
    dag_globals: DagGlobals | None,
    is_code: bool,
) -> bool:
    """Pickle as :func:`dumps` or :func:`dump_code` do, for the sake of ``visit``; return whether it works.

    :param visit: called with each object, before the pickler looks at it
    """
    if dag_globals is not None:  # nothing of this shall stay
        dag_globals = replace(dag_globals, needed={})
    names = dag_globals.needed if dag_globals is not None and not is_code else None
    pickler = _pickler(io.BytesIO(), lambda _: None, [])
    pickler.visit = visit
    try:
        _dump(value, pickler, main_module, dag_globals, names)
    except Exception:  # pickling runs foreign code
        return False
    return True


def _pickler(buffer: io.BytesIO, keep: Callable[[object], object] | None, refs: list[StepResult]) -> Any:
    import cloudpickle

    class Pickler(ByValue, cloudpickle.Pickler):  # type: ignore[misc]
        """Adds a persistent id for each result."""

        visit: Callable[[object], None] | None = None  # of this pickler, and not of those that it makes

        def persistent_id(self, obj: object) -> object:
            if self.visit is not None:
                self.visit(obj)
            if not isinstance(obj, StepResult):
                return None
            if obj not in refs:
                refs.append(obj)
            return (REF, refs.index(obj))

        def reducer_override(self, obj: object) -> object:
            _refuse(obj)
            if isinstance(obj, memoryview):
                return reduce_view(obj)
            return (list, (list(obj),)) if _is_lazy(obj) else super().reducer_override(obj)

    return Pickler(buffer, protocol=5, buffer_callback=keep)


def _dump(
    value: object,
    pickler: Any,
    main_module: str,
    dag_globals: DagGlobals | None,
    names: dict[str, Any] | None,
) -> None:
    with _by_value(main_module):
        if dag_globals is not None:
            namespace = pickler.use_module(dag_globals.module, dag_globals.values, names)
            if names is None and dag_globals.needed:
                value = WithNames(namespace, dag_globals.needed, value)
        pickler.dump(value)


@contextmanager
def _by_value(name: str) -> Iterator[None]:
    import cloudpickle

    module = sys.modules.get(name)
    if module is None or name in cloudpickle.list_registry_pickle_by_value():
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _refuse(value: object) -> None:
    """Refuse values that cloudpickle would pickle and that the step could not use.

    :raises PayloadError: another task's output (``XComArg``) that Airflow has not replaced by a value
    :raises TypeError: an open file
    """
    from airflow.sdk import XComArg

    if isinstance(value, XComArg):
        tasks = ", ".join(sorted({operator.task_id for operator, _ in value.iter_references()}))
        raise PayloadError(
            f"it contains the output of the task {tasks} in a place where Airflow does not look for outputs; "
            "it looks in lists, tuples, dicts, and in the attributes that an object's template_fields name"
        )
    if isinstance(value, io.TextIOWrapper) and value not in (sys.stdin, sys.stdout, sys.stderr):
        raise TypeError("cannot pickle an open file")  # cloudpickle would pickle all of its contents


def as_list(value: object) -> object:
    """Read the results of a mapped task in the worker: Airflow's lazy sequence works only in Airflow."""
    return list(value) if _is_lazy(value) else value


def _is_lazy(value: object) -> TypeGuard[Iterable[object]]:
    return type(value).__name__ == "LazyXComSequence"


def advice(value: object) -> str:
    """Return advice for the user about a value that cannot be pickled."""
    import types
    from threading import Lock

    if isinstance(value, (types.GeneratorType, types.AsyncGeneratorType, range, map, filter, zip)):
        return "Pass list(...) of it"
    if isinstance(value, io.IOBase):
        return "Pass the file's contents, or its path when the step can reach it"
    if type(value) is type(Lock()):
        return "Create the lock inside the step"
    return "Pass plain data, and create connections, handles and the like inside the step"
