"""Turns a failure into the exception that the task raises; called by :class:`WorkerSession`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.printable import printable_text
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.runner.protocol import DATA_CODECS
from airflow_stepop.runner.values import decode

if TYPE_CHECKING:
    from airflow_stepop.payload.code_archive import Project

INSTALL = (
    "if it is a package, requirements=[...] installs it in the step, or use an image that has it; if it is a "
    "module of yours, see which files include= ships"
)

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not set for classes that are part of the interpreter
_LONGEST_LINE = 100_000
# What builtin classes keep outside of __dict__, and show safely whatever is in there
_FIELDS: dict[type, tuple[str, ...]] = {
    OSError: ("errno", "strerror", "filename", "filename2"),
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name", "obj"),
    StopIteration: ("value",),
}


def to_exception(
    failure: Failure, where: str, next_memory: str | None = None, project: Project | None = None
) -> Exception:
    """Return the exception that the task raises.

    If the step failed with a ``user_error`` and the class of its exception is known here, the task raises the
    step's own exception with a ``StepFailedError`` as its cause. Otherwise the task raises the
    ``StepFailedError``. A class is known if its module is loaded, or is one of the task's project: the step
    names the module, and an import runs code.

    ``AirflowSkipException`` and ``AirflowFailException`` are recognised by the names of the exception's
    classes. So a step can raise classes of these names without having Airflow.

    :param where: the job and its page, for the message
    :param next_memory: see :class:`StepFailedError`
    :param project: the task's project
    """
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    remote = failure.exception
    if remote is not None and remote.get("qualname") == "ModuleNotFoundError" and not failure.hint:
        failure = replace(failure, hint=INSTALL)
    failed = StepFailedError(failure, where, next_memory)
    if remote is None or failure.category is not Category.USER_ERROR:
        return failed
    names = {name.rpartition(".")[2] for name in remote.get("mro", ())}
    message = _message(remote)
    error = _rebuild(remote, project) or failed
    if "AirflowSkipException" in names:
        return error if isinstance(error, AirflowSkipException) else AirflowSkipException(message)
    if "AirflowFailException" in names and not isinstance(error, AirflowFailException):
        error = AirflowFailException(message)
    if error is not failed:
        object.__setattr__(error, "__cause__", failed)  # a frozen dataclass refuses to be changed
    return error


def _rebuild(remote: Mapping[str, Any], project: Project | None) -> Exception | None:
    """Return an exception of the same class with the same text; ``None`` if that is not possible.

    No method of the class is called to make the exception, neither ``__new__`` nor ``__init__``. The builtin
    class that the class derives from makes it. Afterwards its attributes are set without ``__setattr__``.
    """
    cls = _find(str(remote.get("module", "")), str(remote.get("qualname", "")), project)
    if cls is None:
        return None
    message = _message(remote)
    try:
        error = _made(cls, remote, project)
        # An argument could not travel, or __str__ needs what could not. Or the class refuses to be changed,
        # as a frozen dataclass does: Python sets __traceback__ when an exception leaves a context manager
        if _shown(error) != message or _is_guarded(cls):
            error = _made(_with_text(cls, message), remote, project)
        traceback.format_exception_only(error)  # Airflow does this, and must not fail there
    except Exception:  # noqa: BLE001, RUF100 - a user's class may raise anything, and the data may be anything
        return None
    return error


def _message(remote: Mapping[str, Any]) -> str:
    """Return the text of an exception. It goes to logs and terminals, also by Airflow."""
    return printable_text(str(remote.get("message", "")))


def _made(cls: type[Exception], remote: Mapping[str, Any], project: Project | None) -> Exception:
    base: Any = cls
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    message = _message(remote)
    args = _decoded_args(remote.get("args"), message)
    attributes = decoded_attributes(remote.get("attributes"))
    error: Exception
    if issubclass(cls, ExceptionGroup):
        members = [_rebuild(one, project) or _unknown(one) for one in remote.get("exceptions") or ()]
        error = base.__new__(cls, attributes.pop("message", message), members)
    elif issubclass(cls, (UnicodeError, SyntaxError)) and not _is_sound(cls, args):
        error = base.__new__(cls)
        object.__setattr__(error, "args", (message,))
    else:
        error = base.__new__(cls, *args)
        base.__init__(error, *args)
    own = object.__getattribute__(error, "__dict__")
    for name, value in attributes.items():
        field = _field(cls, name)
        if field is not None:
            field.__set__(error, value)
        elif not _is_defined(cls, name):
            own[name] = value
    own["__notes__"] = [printable_text(str(note)) for note in remote.get("notes") or ()]
    return error


def _with_text(cls: type[Exception], message: str) -> type[Exception]:
    """Return a subclass, of the same name, whose text is ``message`` and whose attributes can be set.

    :raises TypeError: to make a subclass would run code of the class
    """
    if type(cls) is not type or any("__init_subclass__" in vars(kind) for kind in cls.__mro__[:-1]):
        raise TypeError("the class decides about its subclasses")
    names = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__setattr__": BaseException.__setattr__}
    return type(
        cls.__name__, (cls,), {**names, "__qualname__": cls.__qualname__, "__str__": lambda _: message}
    )


def _is_guarded(cls: type) -> bool:
    """Return whether the class, or one that it derives from, decides what may be set."""
    return any(kind.__flags__ & _HEAP_TYPE and "__setattr__" in vars(kind) for kind in cls.__mro__)


def _unknown(remote: Mapping[str, Any]) -> Exception:
    """Return a stand-in for a member of a group whose class cannot be imported here."""
    return StepFailedError(Failure(Category.USER_ERROR, f"{remote.get('qualname')}: {_message(remote)}"))


def _field(cls: type, name: str) -> Any:
    """Return the descriptor of a slot or of a builtin class's field; ``None`` for a name of ``__dict__``."""
    for kind in cls.__mro__:
        if name in vars(kind):
            is_known = name in _FIELDS.get(kind, ()) or "__slots__" in vars(kind)
            return (
                vars(kind)[name] if is_known and isinstance(vars(kind)[name], MemberDescriptorType) else None
            )
    return None


def _is_defined(cls: type, name: str) -> bool:
    """Return whether the class gives a name a meaning of its own: a method, a property, a slot.

    A plain value in the class is only a default of the attribute.
    """
    for kind in cls.__mro__:
        if name in vars(kind):
            found = vars(kind)[name]
            return callable(found) or hasattr(type(found), "__get__")
    return name.startswith("__")


def _is_sound(cls: type[Exception], args: tuple[Any, ...]) -> bool:
    """Return whether a ``UnicodeError`` or ``SyntaxError`` can show such arguments.

    Both read a text at the positions that they were given, and do not check all of them.
    """
    if issubclass(cls, SyntaxError):
        numbers = [one for one in args[1] if isinstance(one, int)] if len(args) > 1 else []
        return all(-1 <= one < _LONGEST_LINE for one in numbers)
    if not issubclass(cls, (UnicodeEncodeError, UnicodeDecodeError, UnicodeTranslateError)):
        return True
    text, start, end = args[-4:-1] if len(args) > 3 else (None, 0, 0)
    return isinstance(text, (str, bytes)) and 0 <= start <= end <= len(text)


def _shown(error: Exception) -> str | None:
    try:
        return str(error)
    except Exception:  # noqa: BLE001, RUF100 - a user's class may raise anything
        return None


def _decoded_args(pairs: Any, message: str) -> tuple[Any, ...]:
    try:
        return tuple(map(_decoded, pairs))
    except Exception:  # noqa: BLE001, RUF100 - there are none, or they are damaged or masked, or NumPy is missing
        return (message,)


def decoded_attributes(pairs: Any) -> dict[str, Any]:
    found = {}
    for name, pair in (pairs or {}).items():
        with suppress(Exception):  # as above
            found[name] = _decoded(pair)
    return found


def _decoded(pair: Any) -> Any:
    codec, text = pair
    if codec not in DATA_CODECS:
        raise ValueError(f"{codec} is not a data codec")
    return decode(
        codec, [text.encode("utf-8", "surrogatepass") if codec == "json" else b64decode(text, validate=True)]
    )


def _find(module: str, qualname: str, project: Project | None) -> type[Exception] | None:
    """Return a class of exceptions, if it may be raised here."""
    found = _module(module, project)
    for name in qualname.split("."):
        found = inspect.getattr_static(found, name, None)  # a module may import others when asked for a name
    if not isinstance(found, type) or not issubclass(found, Exception) or _is_of_airflow(found):
        return None
    return found


def _module(name: str, project: Project | None) -> object:
    """Return a module that is loaded, or import one of the project, with the packages around it."""
    if name in sys.modules or project is None:
        return sys.modules.get(name)
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        part = ".".join(parts[:count])
        if part in sys.modules:
            continue
        try:
            if not _is_of(project, part):
                return None
            importlib.import_module(part)
        except (Exception, SystemExit):  # noqa: BLE001, RUF100 - a user's module may raise anything
            return None
    return sys.modules.get(name)


def _is_of(project: Project, module: str) -> bool:
    """Return whether a module that is not loaded belongs to the project. Its own code is not run.

    A package without an ``__init__.py`` may have folders outside of the project. It has no code itself, and
    each module in it is asked for.

    :param module: the packages around it are loaded
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else spec.submodule_search_locations or ()
    return any(project.contains(Path(place).resolve()) for place in places)


def _is_of_airflow(cls: type) -> bool:
    """Return whether a class means something to Airflow, or to this package: to try again, to defer, to skip.

    The worker raises ``AirflowSkipException`` and ``AirflowFailException`` itself, and a plain
    ``AirflowException`` is an error like any other.
    """
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    known = AirflowException, AirflowFailException, AirflowSkipException
    return any(
        kind.__module__.partition(".")[0] in ("airflow", "airflow_stepop") and kind not in known
        for kind in cls.__mro__
    )
