"""Runs a Python function: decodes the arguments, calls it, encodes the result. Called by :mod:`.child`."""

from __future__ import annotations

import sys

from .entries import Encoded
from .failures import RefusedError, StepError
from .phases import phase
from .protocol import is_plain_text
from .values import decode_entry, encode_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .entries import Dumps, Loads
    from .step import Step
    from .wire import Entry, Function, Returned

XCOM_KEY_CHARS = 512  # longest XCom key in Airflow's database


def run_function(step: Step) -> Returned:
    """Run the function; return ``value``, or ``split`` and ``values``, of the outcome.

    :raises StepError: the result cannot be encoded
    :raises RefusedError: the function or an argument cannot be loaded
    :raises BaseException: the exceptions of the function itself
    """
    sys.path.insert(1, step.scratch)
    function, args, kwargs = _call_of(step)
    phase("arguments decoded")
    result = function(*args, **kwargs)
    if type(result).__name__ == "coroutine":
        import asyncio

        result = asyncio.run(_without_executor(result))
    step.leave_if_forked()
    phase("step ran")
    encoded = {} if step.manifest["discard_result"] else _encode_result(step, result)
    phase("result encoded")
    return encoded


async def _without_executor(coroutine: Any) -> Any:
    import asyncio

    try:
        return await coroutine
    finally:  # asyncio.run() would wait for the threads of run_in_executor() without a limit; leave() waits
        asyncio.get_running_loop()._default_executor = None  # type: ignore[attr-defined]


# -- decoding ------------------------------------------------------------------------------------------------


def _call_of(step: Step) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    from .pickling import argument_loads

    manifest = step.manifest
    refs: dict[int, Any] = {}

    def ref(index: int) -> Any:
        if index not in refs:
            refs[index] = decode(manifest["refs"][index], "a result of an earlier step")
        return refs[index]

    loads = argument_loads(ref)

    def decode(entry: Entry, what: str, loads: Loads = loads) -> Any:
        try:
            return decode_entry(entry, step.read_segment, loads)
        except StepError:
            raise
        except Exception as error:  # unpickling runs foreign code
            about = entry.get("about") if isinstance(entry, dict) else ""
            raise _not_loaded(error, f"{what} ({about})" if about else what) from error

    # The function is loaded first: it carries the DAG file's classes, which results of earlier steps need
    load_code = _shared(step, loads)
    function = _function(manifest["function"], lambda entry, what: decode(entry, what, load_code))
    phase("function loaded")
    names = manifest.get("argument_names") or []
    args = [
        decode(
            entry, f"argument {names[index]!r}" if index < len(names) else f"positional argument {index + 1}"
        )
        for index, entry in enumerate(manifest["args"])
    ]
    kwargs = {name: decode(entry, f"argument {name!r}") for name, entry in manifest["kwargs"].items()}
    if "moments" in manifest:
        from .moments import moment

        kwargs.update((name, moment(kwargs[name])) for name in manifest["moments"])
    return function, args, kwargs


def _shared(step: Step, loads: Loads) -> Loads:
    """Return ``loads`` for the code of the DAG file, which child processes of the step need, too."""

    def load_code(data: Any, buffers: list[Any]) -> Any:
        found = loads(data, buffers)
        dag_module = sys.modules.get(f"{__package__}.dag_module")
        if dag_module is not None:
            dag_module.share(step.modules, data)
        return found

    return load_code


def _function(spec: Function, decode: Callable[[Entry, str], Any]) -> Any:
    if spec["by"] == "value":
        return decode(spec["entry"], "the function")
    if "entry" in spec:
        decode(spec["entry"], "what the arguments need of the DAG file")
    module, qualname = spec["module"], spec["qualname"]
    try:
        __import__(module)
        found = sys.modules[module]
    except ModuleNotFoundError as error:
        if error.name and (module + ".").startswith(error.name + "."):
            hint = "put the module beside the DAG file, or list it in include="
            raise RefusedError(
                "bad_config", f"The module {module} is not in the code archive", hint
            ) from error
        raise _not_loaded(error, f"the module {module}") from error
    except Exception as error:  # importing runs the user's code
        raise _not_loaded(error, f"the module {module}") from error
    for name in qualname.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise RefusedError("bad_config", f"The module {module} has no {qualname}") from None
    return found


def _not_loaded(error: Exception, what: str) -> StepError:
    from .entries import SegmentError

    if isinstance(error, SegmentError):
        return RefusedError("infra", f"The step was not started: {what} is damaged: {error}")
    from .exception_data import failure_of

    failure = failure_of(error)
    category, hint = "user_error", ""
    if isinstance(error, ModuleNotFoundError):
        category, hint = "requirements", f"use an image that has {error.name}"
        if str(error.name).startswith("airflow"):
            hint = "keep Airflow out of the modules that the step imports; only the DAG file needs it"
    refused = RefusedError(category, f"Loading {what} failed here: {type(error).__name__}: {error}", hint)
    refused.exception = failure["exception"]
    return refused


# -- encoding ------------------------------------------------------------------------------------------------


def _encode_result(step: Step, result: Any) -> Returned:
    dumps = _result_dumps(step.manifest["main_module"])

    def encode(value: object, where: str = "") -> Entry:
        return step.to_entry(_encode_one(value, dumps, where))

    split = _split_of(step.manifest["split"], result)
    if split == "dict":
        values = {key: encode(value, f"[{key!r}]") for key, value in result.items()}
        return {"split": split, "values": values}
    if split == "list":
        return {"split": split, "values": [encode(value, f"[{index}]") for index, value in enumerate(result)]}
    return {"value": encode(result)}


def _result_dumps(main_module: str | None) -> Dumps:
    """Return the ``dumps`` of results; ``main_module`` is the module name of the DAG file."""

    def dumps(value: Any, buffer_callback: Callable[[Any], object]) -> bytes:
        import io

        import cloudpickle

        from .pickling import reduce_code, reduce_view

        try:
            from .by_value import ByNameAndValue as Base
        except ImportError:  # the step has nothing of the DAG file
            Base = object  # type: ignore[misc, assignment]  # noqa: N806 - a class

        class ResultPickler(Base, cloudpickle.Pickler):  # type: ignore[misc]
            """Pickles classes and functions of the DAG file by name and by value."""

            named_module = main_module

            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, io.TextIOWrapper):  # cloudpickle would pickle all of its contents
                    raise TypeError("cannot pickle an open file")
                if type(obj).__name__ == "code":
                    return reduce_code(self, obj)
                if type(obj) is memoryview:
                    return reduce_view(obj)
                return super().reducer_override(obj)

        stream = io.BytesIO()
        ResultPickler(stream, protocol=5, buffer_callback=buffer_callback).dump(value)
        return stream.getvalue()

    return dumps


def _split_of(mode: str, result: Any) -> str | None:
    if mode == "auto":
        if isinstance(result, (list, tuple)):
            return "list"
        return "dict" if isinstance(result, dict) and all(map(_is_key, result)) else None
    if mode == "dict" and result is not None:  # as Airflow does: without a result there is nothing to split
        from collections.abc import Mapping

        hint = "return a dict with str keys, or drop multiple_outputs"
        if not isinstance(result, Mapping):
            raise StepError(
                "user_error",
                f"multiple_outputs is set, but the step returned {_kind(result)}, not a dict",
                hint,
            )
        for key in result:
            if not _is_key(key):
                what = "is not a str" if not isinstance(key, str) else "cannot name an XCom"
                raise StepError(
                    "user_error", f"multiple_outputs is set, but the key {repr(key)[:200]} {what}", hint
                )
        return "dict"
    if mode == "list" and type(result) is not list:
        raise StepError("user_error", f"The step must return a list, but returned {_kind(result)}")
    return None if mode == "no" or result is None else mode


def _is_key(key: object) -> bool:
    """Return whether Airflow can store an XCom under this key."""
    return isinstance(key, str) and 0 < len(key) <= XCOM_KEY_CHARS and is_plain_text(key)


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _encode_one(value: object, dumps: Dumps, where: str) -> Encoded:
    from .about import describe, report

    try:
        encoded = encode_value(value, dumps)
    except Exception as error:  # pickling runs foreign code
        what = f"The step returned{' at ' + where if where else ''} a value of type {_kind(value)}"
        failed = StepError("user_error", f"{what} that cannot be pickled: {error}", _instead(value))
        failed.native_reason = type(error).__name__
        raise failed from error
    encoded.about = describe(value)
    report(value, encoded, where)
    return encoded


def _instead(value: object) -> str:
    kind = type(value).__name__
    if kind in ("generator", "async_generator", "map", "filter", "zip"):
        return "return list(...) of it"
    if kind == "coroutine":
        return "await it inside the step"
    if hasattr(value, "read") and hasattr(value, "close"):
        return "return the file's contents (bytes or str), not the open file"
    return "return plain data, arrays or tables; open connections, locks and handles cannot leave the process"
