"""Finds what cannot be pickled inside a function or an argument, and the way to it, for the error message.

Called by :mod:`.call` and :mod:`.build` after pickling has failed. The value is pickled once more, and each
object that the pickler comes to is noted: the last one is the one that failed. Then the way to it is looked
for from the outside: through globals, closures, defaults, attributes and items. This runs no code of the user
beyond what pickling runs: attributes are read past ``__getattr__`` and properties.
"""

from __future__ import annotations

import dis
import functools
import io
import itertools
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_stepop.payload.code_archive import is_installed
from airflow_stepop.payload.pickling import advice
from airflow_stepop.runner.about import type_name
from airflow_stepop.runner.code_names import class_body_names, nested
from airflow_stepop.runner.failures import plain

SEEN = 1_000_000  # objects that are noted
LATEST = 50  # parts of an object that are followed: the one that failed is in the part that was visited last
TRIALS = 20  # objects that are pickled alone, if the one that failed is not found from the outside
LABELS = 8  # of a way that is longer, the middle is left out
LABEL_CHARS = 60

_ATOMS = (str, bytes, int, float, complex, bool, type(None))
_CODE = (
    types.FunctionType,
    types.MethodType,
    type,
    property,
    staticmethod,
    classmethod,
    functools.partial,
    functools.cached_property,
    type(functools.cache(repr)),
)
_ITEMS = (dict, list, tuple, set, frozenset, deque, types.MappingProxyType, types.SimpleNamespace)
# Attributes of objects that wrap functions, and what is written for them
_WRAPPED: dict[type, Mapping[str, str]] = {
    property: {"fget": "", "fset": "", "fdel": ""},
    staticmethod: {"__func__": ""},
    classmethod: {"__func__": ""},
    functools.cached_property: {"func": ""},
    types.MethodType: {"__func__": "", "__self__": ".__self__"},
}
_LISTED = (types.GeneratorType, types.AsyncGeneratorType, map, filter, zip, itertools.chain)
_SEQUENCES: tuple[Any, ...] = (list, tuple, deque)  # whose own __iter__ is called, and not that of a subclass
_SETS: tuple[Any, ...] = (set, frozenset)
_SKIPPED = {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__"}


class Visited:
    """The objects that a pickler came to, in order."""

    def __init__(self) -> None:
        # id -> (number, object). The object is kept alive, so that the id stays its own
        self.by_id: dict[int, tuple[int, object]] = {}
        self.last: deque[object] = deque(maxlen=1000)

    def add(self, value: object) -> None:
        if type(value) in _ATOMS:
            return
        self.last.append(value)
        if len(self.by_id) < SEEN and id(value) not in self.by_id:
            self.by_id[id(value)] = len(self.by_id), value

    def number(self, value: object) -> int | None:
        """Return when the pickler came to an object first; ``None``: never. Above ``SEEN`` nobody counts."""
        if type(value) in _ATOMS:
            return None
        number, _ = self.by_id.get(id(value), (SEEN if len(self.by_id) >= SEEN else None, None))
        return number


Trace = Callable[[object], Visited | None]  # pickles a value; returns None if that works


@dataclass(frozen=True)
class _Way:
    """The labels and objects on the way to an object, which is the last one.

    :param culprit: what cannot be pickled in this object
    """

    steps: tuple[tuple[str, object], ...]
    culprit: object = None

    @property
    def end(self) -> object:
        return self.steps[-1][1]

    def to(self, label: str, value: object) -> _Way:
        return _Way((*self.steps, (label, value)))


@dataclass(frozen=True)
class Unpicklable:
    """What cannot be pickled, and the way to it.

    :param path: ``f -> helper -> CLIENT (botocore.client.S3)``
    :param advice: what the user can do
    """

    path: str
    advice: str


def find_unpicklable(roots: Mapping[str, object], trace: Trace, whole: object) -> Unpicklable | None:
    """Return what cannot be pickled in ``whole``; ``None``: it is not found.

    :param roots: name -> value; the way begins at one of these
    """
    try:
        visited = trace(whole)
        found = _search(roots, trace, visited) if visited is not None else None
        return _described(found) if found is not None else None
    except Exception:  # a better message must never hide the error that it is about
        return None


def _search(roots: Mapping[str, object], trace: Trace, visited: Visited) -> _Way | None:
    ways = _ways(roots, visited)
    trials = itertools.islice((one for one in reversed(visited.last) if id(one) in ways), TRIALS)
    for one in trials:
        inner = trace(one)
        if inner is not None:
            return replace(ways[id(one)], culprit=inner.last[-1] if inner.last else one)
    return None


def _ways(roots: Mapping[str, object], visited: Visited) -> dict[int, _Way]:
    """Return the shortest way to each object that the pickler came to."""
    todo = deque(_Way(((name, value),)) for name, value in roots.items())
    ways = {id(way.end): way for way in reversed(todo)}
    while todo:
        way = todo.popleft()
        for label, child in _latest(way.end, visited):
            if id(child) not in ways:
                ways[id(child)] = way.to(label, child)
                todo.append(ways[id(child)])
        if len(ways) > SEEN:
            break
    return ways


def _latest(value: object, visited: Visited) -> list[tuple[str, object]]:
    """Return those parts of ``value`` that the pickler came to last."""
    numbered = ((visited.number(part[1]), part) for part in _parts(value))
    known = [(number, part) for number, part in numbered if number is not None]
    if len(known) > LATEST:
        known = sorted(known, key=lambda one: one[0])[-LATEST:]
    return [part for _, part in known]


# -- what an object refers to --------------------------------------------------------------------------------


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield (label, object) of what ``value`` refers to and pickling follows."""
    if isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, type):
        yield from ((f".{name}", one) for name, one in type.__dict__["__dict__"].__get__(value).items())
        yield from ((f" -> {base.__name__}", base) for base in value.__bases__)
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f" -> argument {index + 1}", one) for index, one in enumerate(value.args))
        yield from ((f" -> argument {name}", one) for name, one in value.keywords.items())
    elif type(value) in _WRAPPED:
        yield from ((label, getattr(value, name)) for name, label in _WRAPPED[type(value)].items())
    else:
        yield from _items(value)
        yield from _attributes(value)
    if type(value) is not type:
        yield f" -> {type(value).__name__}", type(value)


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code, here = function.__code__, function.__globals__
    yield from ((f" -> {name}", here[name]) for name in _global_names(code) if name in here)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" -> {name}", cell.cell_contents
        except ValueError:  # the variable has no value
            continue
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    named = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
    for name, one in {**named, **(function.__kwdefaults__ or {})}.items():
        yield f" -> the default of {name}", one
    yield from ((f" -> the annotation of {name}", one) for name, one in function.__annotations__.items())
    yield from ((_attribute(name), one) for name, one in function.__dict__.items())


def _global_names(code: types.CodeType) -> Iterator[str]:
    for inner in nested(code):
        yield from (one.argval for one in dis.get_instructions(inner) if one.opname == "LOAD_GLOBAL")
    yield from class_body_names(code)


def _items(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, (dict, types.MappingProxyType)):
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        yield from ((f"[{_key(key)}]", one) for key, one in list(pairs))
        yield from ((f" -> the key {_key(key)}", key) for key, _ in list(pairs))
    if isinstance(value, defaultdict):
        yield ".default_factory", value.default_factory
    for kind in _SEQUENCES:
        if isinstance(value, kind):
            yield from ((f"[{index}]", one) for index, one in enumerate(kind.__iter__(value)))
    for kind in _SETS:
        if isinstance(value, kind):
            yield from ((" -> an item", one) for one in kind.__iter__(value))
    if isinstance(value, BaseException):
        yield from ((f".args[{index}]", one) for index, one in enumerate(BaseException.args.__get__(value)))  # type: ignore[attr-defined]


def _key(key: object) -> str:
    return repr(key) if type(key) in _ATOMS else f"a {type(key).__name__}"


def _attribute(name: object) -> str:
    return "" if name == "__wrapped__" else f".{name}"  # a decorator is not worth a word


def _attributes(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
        return  # pickled by name
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from ((_attribute(name), one) for name, one in list(own.items()))
    for base in type(value).__mro__:
        for name, slot in type.__dict__["__dict__"].__get__(base).items():
            if isinstance(slot, types.MemberDescriptorType) and name not in _SKIPPED:
                try:
                    yield f".{name}", slot.__get__(value)
                except AttributeError:  # a slot without a value
                    continue


# -- what is said --------------------------------------------------------------------------------------------


def _described(found: _Way) -> Unpicklable:
    """Say the way up to the first object that is of a package, and what fails inside of it."""
    culprit, steps = found.culprit, found.steps
    for index, (_, one) in enumerate(steps):
        if not isinstance(one, (*_CODE, *_ITEMS)) and _is_foreign(type(one)):
            steps = steps[: index + 1]
            break
    holder = steps[-1][1]
    about = _kind(holder)
    if holder is not culprit:
        about += f", which holds {_kind(culprit)}"
    labels = [label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…" for label, _ in steps]
    if len(labels) > LABELS:
        labels = [*labels[: LABELS // 2], " ... ", *labels[-LABELS // 2 + 1 :]]
    return Unpicklable(plain(f"{''.join(labels)} ({about})"), _advice(culprit, steps))


def _kind(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    name = type_name(kind, is_full=True)
    return f"the class {name}" if isinstance(value, type) else name


def _is_foreign(kind: type) -> bool:
    """Return whether a class is of Python or of an installed package, and not of the user's project."""
    return is_installed(str(kind.__module__))


def _advice(culprit: object, steps: Sequence[tuple[str, object]]) -> str:
    """Say what to do about an object: about an argument, or about something that a function refers to."""
    where = "inside the step"
    if any(_is_of_airflow(one) for _, one in steps):
        return (
            "Create the hook or the client inside the step, and hand its connection over with "
            'secrets={"AIRFLOW_CONN_ID": "{{ conn.ID.get_uri() }}"}'
        )
    is_argument = not any(isinstance(one, types.FunctionType) for _, one in steps)
    if is_argument:
        return advice(culprit)
    if isinstance(culprit, _LISTED):
        return f"Make it {where}, or make a list of it"
    if isinstance(culprit, io.IOBase):
        return f"Open the file {where}; include= ships a file that lies beside the DAG"
    return f"Create it {where}, in the function that uses it, or pass plain data as an argument"


def _is_of_airflow(value: object) -> bool:
    return any(
        base.__name__ in ("BaseHook", "Connection") and str(base.__module__).startswith("airflow.")
        for base in type(value).__mro__
    )
