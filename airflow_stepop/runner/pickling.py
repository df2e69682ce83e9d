"""Unpickles the function and the arguments in the child process. Called by :mod:`.function`.

An argument may contain a reference to an earlier step's result; see :func:`argument_loads`.

In a pickle, the name of this module is ``stepop_runner.pickling``. The unpickler of the worker reads
``stepop_runner.`` as ``airflow_stepop.runner.``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HOST = "airflow_stepop.runner"  # name of this package in the pickles of the worker
REF = "stepop-ref"  # pickle persistent id ("stepop-ref", index): the value of manifest["refs"][index]


def dag_class(module: str, qualname: str, by_value: bytes) -> Any:
    """Return a class or function of an earlier step's DAG file. Called by the unpickler, in a later step."""
    from . import dag_module

    return dag_module.receive(module, qualname, by_value)


def reduce_view(view: memoryview) -> tuple[Any, ...]:
    """Reduce a memoryview to its bytes, format and shape; cloudpickle would pickle the bytes alone.

    :raises TypeError: the items of the memoryview have a format that ``memoryview.cast`` does not know
    """
    data = view.tobytes() if view.readonly else bytearray(view.tobytes())
    if view.format == "B" and view.ndim == 1:
        return memoryview, (data,)
    import operator

    try:
        memoryview(data).cast(view.format, view.shape)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise TypeError(f"cannot pickle a memoryview of format {view.format!r}: {error}") from None
    return operator.methodcaller("cast", view.format, list(view.shape or ())), (memoryview(data),)


def reduce_code(pickler: Any, code: Any) -> Any:
    """Reduce a code object together with its file name, so that tracebacks show the file.

    cloudpickle leaves the file name out since 3.1.3, to get the same pickle wherever the file lies.
    """
    make, args = pickler.dispatch_table[type(code)](code)
    return make, tuple(code.co_filename if arg == "<dynamic-code>" else arg for arg in args)


def argument_loads(ref: Callable[[int], Any]) -> Callable[[Any, list[Any]], Any]:
    """Return the function ``loads(data, buffers)`` for the step's function and arguments.

    :param ref: returns an earlier step's result by its index in ``manifest["refs"]``
    """

    def loads(data: Any, buffers: list[Any]) -> Any:
        import io
        import pickle

        class ArgumentUnpickler(pickle.Unpickler):
            """Resolves references to earlier results; loads a plain function without cloudpickle itself."""

            def find_class(self, module: str, name: str) -> Any:
                module = _module_here(module, name)
                return super().find_class(module, name)

            def persistent_load(self, pid: Any) -> Any:
                if not isinstance(pid, tuple) or len(pid) != 2 or pid[0] != REF:
                    raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
                return ref(pid[1])

        return ArgumentUnpickler(io.BytesIO(data), buffers=buffers).load()

    return loads


def _module_here(module: str, name: str) -> str:
    """Return the module that has a function which the worker or an earlier step has pickled by reference."""
    package = str(__package__)
    if module == "cloudpickle.cloudpickle" and module not in sys.modules:
        from . import rebuild  # type: ignore[attr-defined]  # made by zipapp.py

        return rebuild.__name__ if hasattr(rebuild, name) else module
    return package + module[len(HOST) :] if module.startswith(HOST + ".") else module
