"""Turns an exception of the step into JSON-able data. Imported only after a failure.

The worker shows the data, or raises the exception again.
"""

from __future__ import annotations

import binascii

from .failures import SUMMARY_CHARS, StepError, cut, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from .wire import Failure, Raised

# limits on the size of an exception in the outcome
TRACEBACK_LINES = 200
TRACEBACK_CHARS = 64 * 1024
MESSAGE_CHARS = 16 * 1024
DATA_CHARS = 8 * 1024  # of the arguments, and of the attributes
CHAIN_DEPTH = 8
GROUP_SIZE = 8
EXCEPTIONS = 64  # total, because nested groups multiply
NOTES = 20

_HERE = __file__.rpartition("/")[0] + "/"


def failure_of(error: BaseException) -> Failure:
    """Return the outcome's ``failure`` for an exception of the step or of the runner."""
    if isinstance(error, StepError):
        return error.to_json()
    exception = describe(error)
    name, message = exception["qualname"], exception["message"]
    failed = StepError(
        "user_error", f"The step raised {name}: {message}" if message else f"The step raised {name}"
    )
    if isinstance(error, SystemExit):
        failed = _exited(error)
    elif isinstance(error, KeyboardInterrupt):
        failed = StepError("cancelled", "The step was interrupted", native_reason="KeyboardInterrupt")
    failed.summary = cut(failed.summary, SUMMARY_CHARS)
    exception["exit_code"] = failed.exit_code
    failed.exception = exception
    return failed.to_json()


def _exited(error: SystemExit) -> StepError:
    code, status = exit_status(error)
    if not status:
        hint = "return from the function instead of calling sys.exit()"
        return StepError("user_error", "The step called sys.exit() and returned nothing", hint, exit_code=0)
    said = f"({_text(code)})" if isinstance(code, int) else f": {_text(code)}"
    return StepError("user_error", f"The step called sys.exit{said}", exit_code=status)


def exit_status(error: SystemExit) -> tuple[object, int]:
    """Return the argument of ``sys.exit()``, and the exit code that Python itself would give the process.

    Python takes an integer (also a bool) modulo 256. For anything else it prints a text, and the code is 1.
    """
    code = error.code
    if not isinstance(code, int):
        return code, int(code is not None)
    return code, int(code) & 255 if abs(int(code)) < 2**63 else 255


def describe(error: BaseException, depth: int = CHAIN_DEPTH, seen: set[int] | None = None) -> Raised:
    """Return an exception, with its chain and its group, as JSON-able data of limited size.

    Each exception is described once. The exception's own methods are user code and may fail.
    """
    seen = set() if seen is None else seen
    seen.add(id(error))
    kind = type(error)
    notes = error.__dict__.get("__notes__")  # past the user's __getattr__, which may fail

    def chained(other: object) -> Raised | None:
        if not isinstance(other, BaseException) or depth <= 1 or id(other) in seen or len(seen) >= EXCEPTIONS:
            return None
        return describe(other, depth - 1, seen)

    members = getattr(error, "exceptions", None) if _is_group(kind) else None
    return {
        "type": kind.__name__,
        "module": str(kind.__module__),
        "qualname": kind.__qualname__,
        "message": cut(_text(error), MESSAGE_CHARS),
        "traceback": traceback_lines(error.__traceback__),
        "mro": [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__],
        "args": _encoded_args(error),
        "attributes": _encoded_attributes(error),
        "cause": chained(error.__cause__),
        "context": None if error.__cause__ or error.__suppress_context__ else chained(error.__context__),
        "notes": [cut(_text(n), MESSAGE_CHARS) for n in notes[:NOTES]] if isinstance(notes, list) else [],
        "exceptions": [data for data in map(chained, members[:GROUP_SIZE]) if data] if members else [],
        "exit_code": None,
    }


def _is_group(kind: type) -> bool:
    return any(
        base.__name__ == "BaseExceptionGroup" for base in kind.__mro__
    )  # a builtin only since Python 3.11


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # the user's __str__ may raise any exception
        return f"<{type(value).__name__}, whose __str__ raises {type(error).__name__}>"


def _encoded_args(error: BaseException) -> list[Any] | None:
    """Return [codec, text] of each argument; ``None`` if there is one that no data codec holds."""
    try:
        found = [_encoded(value) for value in error.args]
    except Exception:  # a subclass may define args
        return None
    return found if None not in found and len(str(found)) <= DATA_CHARS else None


def _encoded_attributes(error: BaseException) -> dict[str, Any]:
    """Return [codec, text] of each attribute that a data codec holds.

    These are the attributes that the step's code has set, also in slots, and the fields of builtin classes,
    such as ``filename`` of an ``OSError``.
    """
    found: dict[str, Any] = {}
    left = DATA_CHARS
    values = error.__dict__.copy()
    for base in type(error).__mro__:
        for name, field in vars(base).items():
            if type(field).__name__ == "member_descriptor":
                try:
                    values[name] = field.__get__(error)
                except AttributeError:  # a slot without a value
                    continue
                if values[name] is None:  # a field without a value
                    del values[name]
    for name, value in values.items():
        pair = _encoded(value)
        size = len(str(pair))
        if pair and size < left and name[:2] != "__":
            found[name] = pair
            left -= size
    return found


def _encoded(value: Any) -> list[str] | None:
    from .values import encode_data

    try:
        encoded = encode_data(value)
        for kind in (int, float, str, bytes):
            if encoded is None and isinstance(value, kind):  # of a subclass, such as an enum
                made: Any = kind
                encoded = encode_data(made.__getnewargs__(value)[0])
        if encoded is None or encoded.size > DATA_CHARS:
            return None
        data = b"".join(encoded.segments[0])
        if encoded.codec == "json":  # readable, and the secrets in it can be masked
            return ["json", data.decode("utf-8", "surrogatepass")]
        return [encoded.codec, binascii.b2a_base64(data, newline=False).decode()]
    except Exception:  # the value may be any object
        return None


def traceback_lines(trace: TracebackType | None) -> list[str]:
    """Return the traceback as lines, oldest call first, without the runner's frames, cut to the limits."""
    import traceback

    while trace is not None and _is_runner_frame(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    try:
        lines = "".join(traceback.format_tb(trace)).splitlines()
    except Exception as error:  # a module's __loader__ may raise while traceback looks up the source
        return [f"<the traceback could not be read: {type(error).__name__}>"]
    return _bounded(lines)


def _is_runner_frame(filename: str) -> bool:
    return filename.startswith(_HERE) or "/asyncio/" in filename


def _bounded(lines: list[str]) -> list[str]:
    lines = [cut(line, 1000) for line in lines]
    if len(lines) > TRACEBACK_LINES:
        first, last = TRACEBACK_LINES // 4, TRACEBACK_LINES - TRACEBACK_LINES // 4 - 1
        lines = [*lines[:first], f"  … {len(lines) - first - last} lines left out …", *lines[-last:]]
    while sum(map(len, lines)) + len(lines) > TRACEBACK_CHARS:
        lines = ["  … earlier lines left out …", *lines[len(lines) // 4 + 1 :]]
    return lines


def print_exception(data: Raised) -> None:
    """Print the exception to the step's log as Python prints it, even if the step replaced ``sys.stderr``."""
    try:
        with open(2, "w", errors="backslashreplace", closefd=False) as stream:
            stream.write("\n".join(_log_lines(data)) + "\n")
    except OSError:  # the step has closed its log
        pass


def _log_lines(data: Raised) -> list[str]:
    lines: list[str] = []
    if data["cause"]:
        between = "The above exception was the direct cause of the following exception:"
        lines += [*_log_lines(data["cause"]), "", between, ""]
    elif data["context"]:
        between = "During handling of the above exception, another exception occurred:"
        lines += [*_log_lines(data["context"]), "", between, ""]
    module = plain(data["module"])
    name = data["qualname"] if module == "builtins" else f"{module}.{data['qualname']}"
    lines += ["Traceback (most recent call last):", *data["traceback"]] if data["traceback"] else []
    lines += [f"{name}: {data['message']}" if data["message"] else name, *data["notes"]]
    for member in data["exceptions"]:
        lines += [f"  | {line}" for line in _log_lines(member)]
    return lines
