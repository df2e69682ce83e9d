"""The call key: whether two tries of a task are the same call. Equal keys may share a job.

It is made of what the code does (bytecode, names, constants, defaults, referenced globals; no line numbers,
no paths) and of the digests of the arguments. Pickle bytes never enter it: they differ from process to
process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

_DEPTH = 8


def digest(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_key(function: Any) -> str:
    """Return a digest of what ``function`` does, the same in every process with this Python version."""
    return digest(list(_of_value(function, set(), 0)))


def _of_value(value: Any, seen: set[int], depth: int) -> Iterator[str]:
    """Yield the parts that tell one value (a function, a class, a constant, data) from another."""
    walk = next((walk for kind, walk in _WALKS.items() if isinstance(value, kind)), None)
    if walk is not None:
        yield from walk(value, seen, depth)
    elif isinstance(value, (frozenset, set)):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, (str, bytes, int, float, complex, bool, type(None), type(...))):
        yield repr(value)
    elif isinstance(value, (list, tuple)) and depth < _DEPTH:
        yield type(value).__name__
        for item in value:
            yield from _of_value(item, seen, depth + 1)
    elif isinstance(value, Mapping) and depth < _DEPTH:
        yield "mapping"
        for key in sorted(value, key=repr):
            yield repr(key)
            yield from _of_value(value[key], seen, depth + 1)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}:{getattr(value, '__name__', '')}"


def _of_code(code: CodeType, seen: set[int], depth: int) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags))
    for constant in code.co_consts:
        yield from _of_value(constant, seen, depth)


def _of_function(function: FunctionType, seen: set[int], depth: int) -> Iterator[str]:
    yield function.__qualname__
    if id(function) in seen or depth >= _DEPTH:
        return
    seen.add(id(function))
    yield from _of_code(function.__code__, seen, depth)
    yield from _of_value(function.__defaults__, seen, depth + 1)
    yield from _of_value(function.__kwdefaults__, seen, depth + 1)
    for cell in function.__closure__ or ():
        try:
            yield from _of_value(cell.cell_contents, seen, depth + 1)
        except ValueError:  # a cell that is filled later, such as a recursive inner function
            yield "empty cell"
    for name in sorted(set(_global_names(function.__code__))):
        if name in function.__globals__:
            yield name
            yield from _of_global(function.__globals__[name], function.__module__, seen, depth + 1)


def _of_global(value: Any, module: str, seen: set[int], depth: int) -> Iterator[str]:
    """Code of other modules is covered by the code archive, or by the image."""
    if isinstance(value, (FunctionType, type)) and value.__module__ != module:
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        yield from _of_value(value, seen, depth)


def _of_class(cls: type, seen: set[int], depth: int) -> Iterator[str]:
    yield cls.__qualname__
    if id(cls) in seen or depth >= _DEPTH:
        return
    seen.add(id(cls))
    for name, value in sorted(vars(cls).items()):
        inner = getattr(value, "__func__", value)
        if isinstance(inner, FunctionType):
            yield from _of_function(inner, seen, depth + 1)
        elif isinstance(value, (str, int, float, bool, type(None))) and not name.startswith("__"):
            yield f"{name}={value!r}"


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


_WALKS: Mapping[type, Callable[[Any, set[int], int], Iterator[str]]] = {
    CodeType: _of_code,
    FunctionType: _of_function,
    type: _of_class,
}
