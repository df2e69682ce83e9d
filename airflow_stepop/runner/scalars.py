"""Writes values of types that JSON does not have as JSON that people can read.

:mod:`.values` imports this module for such values only.

Such a value is an object whose only key is the name of its type in parentheses::

    {"(numpy.float64)": 0.93}  {"(decimal.Decimal)": "0.10"}  {"(set)": [1, 2]}  {"(dict)": [[1, "one"]]}

A value is written like this only if its type is exactly one of these types, and if reading gives an equal
value of the same type. Reading imports modules of the standard library that are named here, and NumPy if it
is installed; without NumPy, its scalars become plain numbers and texts.
"""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# types that are rebuilt from their text
TEXTS = {
    "decimal": ("Decimal",),
    "uuid": ("UUID",),
    "pathlib": ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"),
}
# types that isoformat() writes, and fromisoformat() reads
ISO = ("date", "time", "datetime")
# modules of the standard library with enums; a module that is not named here is never imported for an enum
ENUMS = frozenset(
    (
        "calendar",
        "enum",
        "http",
        "inspect",
        "plistlib",
        "pstats",
        "py_compile",
        "re",
        "signal",
        "socket",
        "ssl",
        "uuid",
    )
)
# more items are pickled, since they have to be sorted
SET_ITEMS = 10_000


def tagged(value: Any, of: Callable[[Any], Any], read: Callable[[Any], Any]) -> dict[str, Any] | None:
    """Return the JSON of a value, or ``None`` if only a pickle can hold the value.

    :param of: returns the JSON of a value inside ``value``
    :param read: returns the value of its JSON
    """
    kind = type(value)
    if kind is float:
        return {"(float)": repr(value)}
    if kind is complex:
        return {"(complex)": [of(value.real), of(value.imag)]}
    if kind is dict:
        return {"(dict)": [[of(key), of(item)] for key, item in value.items()]}
    if kind is set or kind is frozenset:
        # in the order of the JSON, because the order of a set differs from process to process
        items = [of(item) for item in value] if len(value) <= SET_ITEMS else None
        return None if items is None else {f"({kind.__name__})": sorted(items, key=json.dumps)}
    try:
        found = _scalar(value, kind, of)
        return found if found and _is_same(value, read(found)) else None
    except (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError):
        return None


def _scalar(value: Any, kind: Any, of: Callable[[Any], Any]) -> dict[str, Any] | None:
    module, name = kind.__module__.partition(".")[0], kind.__name__
    if module == "numpy":
        return _of_numpy(value, of) if isinstance(value, sys.modules["numpy"].generic) else None
    if kind.__module__ in ENUMS and isinstance(value, sys.modules["enum"].Enum):
        return {"(enum)": f"{kind.__module__}.{name}.{value.name}"}
    if module == "datetime" and name == "timedelta":
        parts = {part: getattr(value, part) for part in ("days", "seconds", "microseconds")}
        return {"(datetime.timedelta)": parts}
    if module == "datetime" and name in ISO:
        return {f"(datetime.{name})": _iso(value)}
    return {f"({module}.{name})": str(value)} if name in TEXTS.get(module, ()) else None


def _iso(value: Any) -> str:
    """Return the text of a date or time; the name of a time zone follows in brackets."""
    zone = getattr(value, "tzinfo", None)
    key = getattr(zone, "key", None)
    if key is None:
        return str(value.isoformat())
    if _zone(key) is not zone:
        raise ValueError
    return f"{value.isoformat()}[{key}]"


def _zone(key: str) -> Any:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(key)
    except zoneinfo.ZoneInfoNotFoundError as error:
        raise ModuleNotFoundError(f"the time zone {key!r} is unknown here", name="tzdata") from error


def _of_numpy(value: Any, of: Callable[[Any], Any]) -> dict[str, Any] | None:
    dtype = value.dtype
    kind = dtype.kind
    if kind == "U":
        return {"(numpy.str_)": str(value)}
    if kind == "S":
        return {"(numpy.bytes_)": value.decode("latin-1")}
    if kind == "c" and dtype.itemsize <= 16:
        inner: Any = [of(float(value.real)), of(float(value.imag))]
    elif kind == "f" and dtype.itemsize <= 8:
        inner = of(float(value))
    elif kind in "biu":
        inner = value.item()
    elif kind in "mM":
        inner = str(value) if kind == "M" else int(value.astype("i8"))
    else:
        return None
    return {f"(numpy.{dtype.name})": inner}


def _is_same(value: Any, back: Any) -> bool:
    if type(back) is not type(value):
        return False
    if type(value).__module__ == "numpy":
        # NumPy makes NaNs with another sign than Python does; nobody sees the sign
        is_nan = value != value and back != back  # noqa: PLR0124
        return bool(back.dtype == value.dtype and (is_nan or back.tobytes() == value.tobytes()))
    # with its fold and its time zone, and a Decimal with its exponent; a signalling NaN cannot be compared
    return repr(back) == repr(value) and "sNaN" not in repr(value)


def untagged(name: str, inner: Any) -> Any:
    """Return the value of the JSON object ``{"(name)": inner}``. The values inside ``inner`` are decoded.

    :raises ValueError: no type has this name
    """
    if name in _MAKERS:
        return _MAKERS[name](inner)
    module, _, name = name.partition(".")
    if module == "numpy":
        return _to_numpy(name, inner)
    if module == "datetime":
        return _to_time(name, inner)
    if name in TEXTS.get(module, ()):
        return getattr(__import__(module), name)(inner)
    raise ValueError(f"unknown type {module}.{name}")


def _to_numpy(name: str, inner: Any) -> Any:
    if isinstance(inner, list):
        inner = complex(*inner)
    if name == "bytes_":
        inner = inner.encode("latin-1")
    try:
        import numpy
    except ModuleNotFoundError:
        return inner
    if name in ("str_", "bytes_"):
        return getattr(numpy, name)(inner)
    dtype = numpy.dtype(name)
    if dtype.kind not in "biufcmM":
        raise ValueError(f"unknown type numpy.{name}")
    return numpy.array(inner, dtype)[()]


def _to_time(name: str, inner: Any) -> Any:
    import datetime

    if name == "timedelta":
        return datetime.timedelta(**inner)
    if name not in ISO:
        raise ValueError(f"unknown type datetime.{name}")
    text, _, key = inner.partition("[")
    found = getattr(datetime, name).fromisoformat(text)
    if key:
        found = found.replace(tzinfo=_zone(key[:-1]))
        if found.isoformat() != text:  # the second time that the clocks showed this, when they were put back
            found = found.replace(fold=1)
    return found


def _to_enum(text: str) -> Any:
    module, name, member = text.split(".")
    if module not in ENUMS:
        raise ValueError(f"unknown enum {text}")
    import enum

    found = getattr(__import__(module), name)[member]
    if not isinstance(found, enum.Enum):
        raise ValueError(f"unknown enum {text}")  # noqa: TRY004 - damaged data
    return found


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda parts: complex(*parts),
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "enum": _to_enum,
}
