"""Pickles results and unpickles arguments in the child process. Called by :mod:`.function`.

**Results.** A class that the DAG file defines exists twice: in Airflow's process, and as the copy that was
pickled with the function. A result is an instance of the copy. Its pickle therefore contains the name of the
class and the copy itself. On loading, :func:`dag_class` prefers the class of that name in the loading
process, so that ``isinstance`` works downstream. If there is none, :func:`dag_class` unpickles the copy.

**Arguments.** An argument may contain a reference to an earlier step's result; see :func:`argument_loads`.

In a pickle, the name of this module is ``stepop_runner.pickling``. The unpickler of the worker reads
``stepop_runner.`` as ``airflow_stepop.runner.``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REF = "stepop-ref"  # pickle persistent id ("stepop-ref", index): the value of manifest["refs"][index]


def dag_class(module: str, qualname: str, by_value: bytes) -> Any:
    """Return the class of that name. Called by the unpickler.

    The order: a class that is imported here; a class that came with the function; the copy ``by_value``.
    """
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if isinstance(found, type):
        return found
    import pickle

    return _received_class(module, qualname) or pickle.loads(by_value)


def _received_class(module: str, qualname: str) -> Any:
    # This step's function may have brought the class along, too. cloudpickle does not see that both are one
    # class: another process pickled the earlier step's function, so the class has another tracker id
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    for kind in list(getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ())):
        if (kind.__module__, kind.__qualname__) == (module, qualname):
            return kind
    return None


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


def result_dumps(main_module: str | None) -> Callable[[Any, Callable[[Any], Any]], bytes]:
    """Return the ``dumps`` of results; ``main_module`` is the module name of the DAG file."""

    def dumps(value: Any, buffer_callback: Callable[[Any], Any]) -> bytes:
        import io

        import cloudpickle

        class ResultPickler(cloudpickle.Pickler):  # type: ignore[misc]
            """Pickles classes of the DAG file by name and by value."""

            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, io.TextIOWrapper):  # cloudpickle would pickle all of its contents
                    raise TypeError("cannot pickle an open file")
                if type(obj).__name__ == "code":
                    return reduce_code(self, obj)
                if type(obj) is memoryview:
                    return reduce_view(obj)
                if (
                    isinstance(obj, type)
                    and obj.__module__ == main_module
                    and "<locals>" not in obj.__qualname__
                ):
                    return dag_class, (main_module, obj.__qualname__, cloudpickle.dumps(obj, protocol=5))
                return super().reducer_override(obj)

        stream = io.BytesIO()
        ResultPickler(stream, protocol=5, buffer_callback=buffer_callback).dump(value)
        return stream.getvalue()

    return dumps


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
                if module == "cloudpickle.cloudpickle" and module not in sys.modules:
                    from . import rebuild  # type: ignore[attr-defined]  # made by zipapp.py

                    if hasattr(rebuild, name):
                        return getattr(rebuild, name)
                return super().find_class(module, name)

            def persistent_load(self, pid: Any) -> Any:
                if not isinstance(pid, tuple) or len(pid) != 2 or pid[0] != REF:
                    raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
                return ref(pid[1])

        return ArgumentUnpickler(io.BytesIO(data), buffers=buffers).load()

    return loads
