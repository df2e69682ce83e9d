"""Finds the globals that a function needs and that cloudpickle does not see. Used by :mod:`.by_value`.

cloudpickle looks at the instructions that load a global in a function. Not seen are names in the body of a
class that the function defines, names in annotations that are text, and names in text for ``eval`` and
the like.
"""

from __future__ import annotations

import dis
import re
import sys
from types import CodeType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_WORD = re.compile(r"[^\W\d]\w*")
_QUOTED = re.compile(r"@([^\W\d]\w*)")  # a variable in DataFrame.query() of pandas


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield ``code`` and the code of all functions, classes and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def class_body_names(code: CodeType) -> set[str]:
    """Return the globals that the bodies of inner classes read."""
    names: set[str] = set()
    for inner in nested(code):
        assigned: set[str] = set()
        for instruction in dis.get_instructions(inner):
            if instruction.opname == "STORE_NAME":
                assigned.add(instruction.argval)
            elif instruction.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                names |= {instruction.argval} - assigned
    return {name for name in names if not name.startswith("__")}


def words_of_code(code: CodeType) -> set[str]:
    """Return the words of the texts in ``code`` that may name globals."""
    texts: list[str] = []
    for inner in nested(code):
        constants = [constant for constant in inner.co_consts if isinstance(constant, str)]
        if "eval" in inner.co_names or "exec" in inner.co_names:
            texts += constants
        if "globals" in inner.co_names:
            texts += filter(str.isidentifier, constants)
        if "query" in inner.co_names:
            texts += [name for constant in constants for name in _QUOTED.findall(constant)]
        before: Any = None
        for instruction in dis.get_instructions(inner):
            value = instruction.argval
            if value == "__annotations__" and isinstance(before, str):  # of a class
                texts.append(before)
            elif isinstance(value, tuple) and all(isinstance(item, str) for item in value):  # of a function
                texts += value[1::2]
            before = value
    return words(texts)


def words(values: Iterable[Any]) -> set[str]:
    """Return the words of annotations: of the texts in them."""
    found: set[str] = set()
    for value in values:
        text = getattr(value, "__forward_arg__", value)
        if isinstance(text, str):
            found.update(_WORD.findall(text))
        else:
            parts = getattr(value, "__args__", None)
            found |= words(parts) if isinstance(parts, tuple) else set()
    return found


def submodules(code: CodeType, values: Iterable[Any]) -> list[ModuleType]:
    """Return the loaded submodules that the code reaches through the packages among ``values``."""
    attributes = {name for inner in nested(code) for name in inner.co_names}
    packages = [
        value.__name__ + "." for value in values if isinstance(value, ModuleType) and value.__package__
    ]
    return [
        module
        for name, module in list(sys.modules.items())
        for prefix in packages
        if name.startswith(prefix) and module and attributes.issuperset(name[len(prefix) :].split("."))
    ]


def reference(value: Any) -> tuple[str, str] | None:
    """Return (module, qualified name) from which a process can import ``value``; ``None``: there is none."""
    if isinstance(value, ModuleType):
        return value.__name__, ""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    name = name or getattr(value, "_name", None)  # of typing.Optional and the like
    found = sys.modules.get(module) if isinstance(module, str) and isinstance(name, str) else None
    for part in str(name).split("."):
        found = getattr(found, part, None)
    return (str(module), str(name)) if found is value and found is not None else None
