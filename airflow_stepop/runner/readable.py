"""JSON of values for people, without the names of types. Used by the host, and for the inputs of a command.

:mod:`.scalars` says how types that JSON does not have are written.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def has_types(plain: Any) -> bool:
    """Return whether JSON stands for a value with types that JSON does not have; tuples do not count."""
    if isinstance(plain, list):
        return any(map(has_types, plain))
    if not isinstance(plain, dict):
        return False
    if len(plain) == 1:
        ((name, inner),) = plain.items()
        if name == "()" and isinstance(inner, dict):
            return any(map(has_types, inner.values()))
        if name != "()" and name[:1] == "(" and name[-1:] == ")":
            return True
    return any(map(has_types, plain.values()))


def readable(plain: Any) -> Any:
    """Return JSON for people: without the names of types, NaN and infinity as text."""
    if isinstance(plain, list):
        return [readable(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    name, inner = "", plain
    if len(plain) == 1:
        ((name, inner),) = plain.items()
    if name == "(dict)":
        found = {_text(readable(key)): readable(item) for key, item in inner}
        return found if len(found) == len(inner) else readable(inner)
    if name in ("()", "(datetime.timedelta)") and isinstance(inner, dict):
        plain = inner
    elif name[:1] == "(" and name[-1:] == ")":
        return readable(inner)
    return {key: readable(item) for key, item in plain.items()}


def _text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key)
