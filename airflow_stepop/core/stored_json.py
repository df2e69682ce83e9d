"""Checks of JSON that was stored and may have been damaged or edited since.

Every reader of stored JSON (records, handles, references, failures, files of a job) checks the fields here
before it uses them. So damage is always an ``IntegrityError`` that names the field, not an arbitrary Python
error later on.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeGuard

from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.runner.protocol import is_plain_text

FieldType = tuple[str, Callable[[object], bool]]  # its name in an error message, and the check of a value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63


TEXT: FieldType = ("a text", lambda value: isinstance(value, str))
COUNT: FieldType = ("a whole number", lambda value: type(value) is int and 0 <= value < 2**63)
NUMBER: FieldType = ("a number", lambda value: _is_number(value) and isfinite(value))
OBJECT: FieldType = ("an object", lambda value: isinstance(value, Mapping))
TEXTS: FieldType = (
    "a list of texts",
    lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value),
)
TRUTH: FieldType = ("true or false", lambda value: isinstance(value, bool))
LIST: FieldType = ("a list", lambda value: isinstance(value, (list, tuple)))


def or_nothing(kind: FieldType) -> FieldType:
    name, is_one = kind
    return f"{name} or nothing", lambda value: value is None or is_one(value)


DEPTH = 100  # levels of objects and lists; nothing of ours has so many


def parsed_json(data: str | bytes, what: str) -> Any:
    """Return the value of JSON that may be damaged, or made to do damage.

    :param what: a name for ``data`` in the error message, such as ``the record``
    :raises IntegrityError: ``data`` is not JSON, or nested deeper than :data:`DEPTH`
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is damaged: it is no JSON ({error})") from None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEPTH + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for several in inner for one in several if isinstance(one, (dict, list))]
        if not level:
            return value
    raise IntegrityError(f"{what} is damaged: its JSON is nested deeper than {DEPTH} levels")


def checked_fields(
    data: object,
    what: str,
    required: Mapping[str, FieldType],
    optional: Mapping[str, FieldType] | None = None,
) -> dict[str, Any]:
    """Return the known fields of ``data``. Fields that a newer version added are left out.

    :param what: a name for ``data`` in the error message, such as ``the record``
    :param required: the fields that must be there, and the type of each
    :param optional: the fields that may be there, and the type of each
    :raises IntegrityError: ``data`` is not an object, or a field is missing or of another type
    """
    if not isinstance(data, Mapping):
        raise IntegrityError(f"{what} is {reprlib.repr(data)} and not an object")
    found = {}
    for name, (kind, is_one) in {**required, **(optional or {})}.items():
        if name not in data:
            if name in required:
                raise IntegrityError(f"{what} has no {name!r}")
            continue
        if not is_one(data[name]):
            raise IntegrityError(f"{what} has {name}={reprlib.repr(data[name])}, which is not {kind}")
        found[name] = data[name]
    return found


# Airflow's own serialisation marks its objects with these keys
_RESERVED_KEYS = frozenset({"__classname__", "__id__", "__type"})


def is_kept_by_airflow(value: object) -> bool:
    """Return whether Airflow stores JSON unchanged: its messages and databases cannot hold all JSON."""
    if isinstance(value, str):
        return is_plain_text(value)
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, Mapping):
        return not _RESERVED_KEYS & set(value) and all(
            is_kept_by_airflow(k) and is_kept_by_airflow(v) for k, v in value.items()
        )
    return all(map(is_kept_by_airflow, value)) if isinstance(value, (list, tuple)) else True
