"""Computes the code part of the call key. :mod:`.call` builds the whole key; equal keys may share a job.

**What counts.** The behaviour of the code: bytecode, names, constants, defaults and referenced globals. Line
numbers and paths do not count. Pickle bytes do not count either: they differ from process to process.

**Known limit.** In doubt two keys differ. A needless difference costs a job, whereas a wrong match would
return a stale result. For example, since Python 3.13 the key changes when one expression is broken over two
lines, because the compiler joins loads of the same line.
"""

from __future__ import annotations

import copyreg
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cached_property, lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from airflow_stepop.runner.code_names import words, words_of_code

_DEPTH = 100  # deepest nesting of values
_COUNT = 200_000  # values in all; later ones do not count
_ATOMS = (str, bytes, int, float, complex, type(None), type(...))
_ATTRIBUTES = frozenset({"__annotations__", "__pydantic_fields__", "__slots__"})  # the dunders that count


def digest(value: object) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_key(function: object, *modules: str) -> str:
    """Return a digest of a function's behaviour, or of a value: the same in every process with this Python.

    :param modules: functions and classes of these modules count by behaviour, and so do those of the
        function's own module
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

    Functions and classes outside ``modules`` count by name: the digest of the code archive, or the image,
    covers their behaviour.
    """

    def __init__(self, modules: frozenset[str | None]) -> None:
        self.modules = modules
        self._count = 0
        self._seen: dict[int, object] = {}  # keeps the objects alive, so that no id is reused

    def of(self, value: object, depth: int) -> Iterator[str]:
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

    def _is_seen(self, value: object) -> bool:
        if isinstance(value, (tuple, frozenset, CodeType)):  # Python may share one object for equal values
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
            except ValueError:  # the cell is filled later, as for a recursive inner function
                yield "empty cell"
        in_texts = words_of_code(function.__code__) | words(function.__annotations__.values())
        named = {name for name in in_texts if self._is_own(function.__globals__.get(name))}
        for name in sorted({*_global_names(function.__code__), *named}):
            if name in function.__globals__:
                yield name
                yield from self.of(function.__globals__[name], depth)

    def _is_own(self, value: object) -> bool:
        """Return whether the step gets ``value`` though a text alone names it."""
        return getattr(value, "__module__", None) in self.modules or isinstance(value, (str, int, float))

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

    def _cached(self, value: Any, depth: int) -> Iterator[str]:
        yield repr(value.cache_parameters())
        yield from self.of(value.__wrapped__, depth)

    def _cached_property(self, value: cached_property[Any], depth: int) -> Iterator[str]:
        yield from self.of(value.func, depth)

    def _object(self, value: object, depth: int) -> Iterator[str]:
        """Any other object counts by what its ``__reduce_ex__`` returns; if that fails, by its class."""
        yield from self.of(type(value), depth)
        if type(value).__module__.startswith("airflow."):
            return
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001, RUF100 - a user's object may raise any exception
            return
        if isinstance(value, Enum):  # what __init__ and __new__ have set
            yield from self._mapping({k: v for k, v in vars(value).items() if not k.startswith("_")}, depth)
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
    type(lru_cache(repr)): _Walk._cached,
    cached_property: _Walk._cached_property,
}
