"""Pickles of the runner: results that find the DAG file's classes, arguments that refer to earlier results.

A class defined in the DAG file exists twice: the host's own, and the copy that travelled with the function.
A result is an instance of the copy, so its pickle names the class and carries the copy as well:
:func:`dag_class` picks the host's class where there is one (``isinstance`` then works downstream), else
unpickles the copy.

In a pickle this module is ``stepop_runner.pickling``; the host's unpickler reads ``stepop_runner.`` as
``airflow_stepop.runner.``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REF = "stepop-ref"  # pickle persistent id ("stepop-ref", index): the value of manifest["refs"][index]


def dag_class(module: str, qualname: str, by_value: bytes) -> Any:
    """Return the class of that name: imported here, or come with the function, or else the copy."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if isinstance(found, type):
        return found
    import pickle

    return _received_class(module, qualname) or pickle.loads(by_value)


def _received_class(module: str, qualname: str) -> Any:
    # The result of an earlier step names a class which the function of this step may have brought along under
    # another tracker id, because another process of the host pickled it
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    for kind in list(getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ())):
        if (kind.__module__, kind.__qualname__) == (module, qualname):
            return kind
    return None


def reduce_code(pickler: Any, code: Any) -> Any:
    """Reduce a code object with the file that it came from, which tracebacks name.

    cloudpickle leaves it out since 3.1.3, so that its pickles are the same wherever the file lies.
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
                if isinstance(obj, io.TextIOWrapper):  # cloudpickle would read it to its end
                    raise TypeError("cannot pickle an open file")
                if type(obj).__name__ == "code":
                    return reduce_code(self, obj)
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
    """Return the ``loads`` of functions and arguments; ``ref(index)`` is the value of an earlier step."""

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
