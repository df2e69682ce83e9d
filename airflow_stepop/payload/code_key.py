"""The call key: whether two tries of a task are the same call. Equal keys may share a job.

It is made of what the code does (bytecode, names, constants, defaults, referenced globals; no line numbers,
no paths) and of the digests of the arguments. Pickle bytes never enter it: they differ from process to
process. When in doubt two keys differ: that costs a job, and a wrong match would return a stale result. (From
Python 3.13 on, breaking one expression over two lines is such a doubt: the compiler joins loads of one line.)
"""

from __future__ import annotations

import copyreg
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

_DEPTH = 100  # of values inside values
_COUNT = 200_000  # of values in all; what comes after does not count
_ATOMS = (str, bytes, int, float, complex, type(None), type(...))
_ATTRIBUTES = frozenset({"__annotations__", "__pydantic_fields__", "__slots__"})  # the dunders that count


def digest(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_key(function: Any, *modules: str) -> str:
    """Return a digest of what a function does or a value is, the same in every process with this Python.

    :param modules: functions and classes of these (and of the function's own) count by what they do
    """
    own = getattr(function, "__module__", None)
    return _digest(_Walk(frozenset({*modules, own} - {None, ""})).of(function, 0))


def _digest(parts: Iterator[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")
        found.update(b"%d:" % len(data))
        found.update(data)
    return found.hexdigest()


class _Walk:
    """Yields the parts that tell one value (a function, a class, a constant, an object) from another.

    Functions and classes of other modules than ``modules`` count by name: the code archive covers them, or
    the image.
    """

    def __init__(self, modules: frozenset[str | None]) -> None:
        self.modules = modules
        self._count = 0
        self._seen: dict[int, Any] = {}  # keeps them alive, so that no id is given out again

    def of(self, value: Any, depth: int) -> Iterator[str]:
        self._count += 1
        if isinstance(value, _ATOMS):
            yield f"{type(value).__name__}:{value!r}"
        elif isinstance(value, ModuleType):
            yield f"module:{value.__name__}"
        elif depth > _DEPTH or self._count > _COUNT or self._is_seen(value):
            yield "again"
        else:
            yield type(value).__name__
            walk = next((walk for kind, walk in _WALKS.items() if isinstance(value, kind)), _Walk._object)
            yield from walk(self, value, depth + 1)

    def _is_seen(self, value: Any) -> bool:
        if isinstance(value, (tuple, frozenset, CodeType)):  # equal ones may or may not be one object
            return False
        is_seen = id(value) in self._seen
        self._seen[id(value)] = value
        return is_seen

    def _sequence(self, value: Any, depth: int) -> Iterator[str]:
        yield str(len(value))
        for item in value:
            yield from self.of(item, depth)

    def _set(self, value: Any, depth: int) -> Iterator[str]:
        yield from sorted(_digest(_Walk(self.modules).of(item, depth)) for item in value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Iterator[str]:
        items = [(_digest(_Walk(self.modules).of(key, depth)), item) for key, item in value.items()]
        for key, item in sorted(items, key=lambda pair: pair[0]):
            yield key
            yield from self.of(item, depth)

    def _code(self, code: CodeType, depth: int) -> Iterator[str]:
        yield code.co_code.hex()
        yield code.co_exceptiontable.hex()
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, *counts))
        for constant in code.co_consts:
            yield from self.of(constant, depth)

    def _function(self, function: FunctionType, depth: int) -> Iterator[str]:
        yield function.__qualname__
        if function.__module__ not in self.modules:
            yield str(function.__module__)
            return
        yield from self._code(function.__code__, depth)
        yield from self.of(function.__defaults__, depth)
        yield from self.of(function.__kwdefaults__, depth)
        for cell in function.__closure__ or ():
            try:
                yield from self.of(cell.cell_contents, depth)
            except ValueError:  # a cell that is filled later, such as a recursive inner function
                yield "empty cell"
        for name in sorted(set(_global_names(function.__code__))):
            if name in function.__globals__:
                yield name
                yield from self.of(function.__globals__[name], depth)

    def _class(self, cls: type, depth: int) -> Iterator[str]:
        yield cls.__qualname__
        if cls.__module__ not in self.modules:
            yield cls.__module__
            return
        yield from self._sequence(cls.__bases__, depth)
        for name, value in sorted(vars(cls).items()):
            is_counted = not name.startswith("__") or name in _ATTRIBUTES or callable(value)
            if is_counted and not name.startswith("_abc_"):
                yield name
                yield from self.of(value, depth)

    def _wrapper(self, value: Any, depth: int) -> Iterator[str]:
        yield from self.of(value.__func__, depth)

    def _property(self, value: property, depth: int) -> Iterator[str]:
        yield from self._sequence((value.fget, value.fset, value.fdel), depth)

    def _object(self, value: Any, depth: int) -> Iterator[str]:
        """Any other object is what it says it can be made of again; else only its class counts."""
        yield from self.of(type(value), depth)
        if type(value).__module__.startswith("airflow."):
            return
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001, RUF100 - an object of the user's may refuse in any way
            return
        if isinstance(reduced, str):
            yield reduced
            return
        for part in reduced:
            yield from self.of(list(part) if isinstance(part, Iterator) else part, depth)


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


_WALKS: Mapping[type, Callable[[_Walk, Any, int], Iterator[str]]] = {
    CodeType: _Walk._code,
    FunctionType: _Walk._function,
    type: _Walk._class,
    list: _Walk._sequence,
    tuple: _Walk._sequence,
    set: _Walk._set,
    frozenset: _Walk._set,
    dict: _Walk._mapping,
    staticmethod: _Walk._wrapper,
    classmethod: _Walk._wrapper,
    property: _Walk._property,
}
