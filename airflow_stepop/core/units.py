"""Sizes and durations with units: parsing, exact formatting, and short formatting for people.

``GB`` is 10**9 bytes, and ``GiB`` (or Kubernetes' ``Gi``) is 2**30 bytes. Called by ``ResourceSettings``, the
backends, and everything that prints a size. Standard library only, because DAG files import this module.
"""

from __future__ import annotations

import math
import re
import reprlib
from datetime import timedelta
from fractions import Fraction

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.runner.sizes import shown_size as shown_size  # noqa: PLC0414 - for everything that prints a size

_UNITS = {"B": 1}
for _power, _prefix in enumerate("KMGTP", start=1):
    _UNITS[f"{_prefix}B"] = 1000**_power
    _UNITS[f"{_prefix}iB"] = 1024**_power
_UNIT_OF = {unit.lower(): unit for unit in _UNITS} | {
    unit[:-1].lower(): unit for unit in _UNITS if "i" in unit
}
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")
NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_MAX_BYTES = 2**60
LEAST_ROUNDED = 0.995  # three digits are at most half a per cent more than the number
LONGEST_S = 100 * 365 * 86400.0  # calendars and timers end soon after it; whoever wants no limit is served


def parse_size(text: object, name: str = "size") -> int:
    """Return the size in bytes, rounded up, of a text such as ``"32GB"``, ``"16Gi"`` or ``"1.5 GiB"``.

    :param name: the argument's name, for the error message
    :raises StepConfigError: ``text`` is not a size; the message says what to write
    """
    number, unit = split_size(text, name)
    return math.ceil(Fraction(number) * _UNITS[unit])


def format_size(size_bytes: int) -> str:
    """Return the shortest size that :func:`parse_size` reads back as exactly ``size_bytes``."""
    spellings = [
        f"{size_bytes // factor}{unit}" for unit, factor in _UNITS.items() if size_bytes % factor == 0
    ]
    return min(spellings, key=len)


def shown_room(count: float) -> str:
    """Return a number of bytes as :func:`shown_size`, never rounded up, because a user may ask for it."""
    shown = shown_size(count)
    number, unit = shown.split()
    is_more = float(number.replace(",", "")) * _UNITS[unit] > count
    return shown_size(count * LEAST_ROUNDED) if is_more else shown


def split_size(text: object, name: str) -> tuple[str, str]:
    """Return number and unit of a size, each in one spelling: ``"1.50 gib"`` becomes ``("1.5", "GiB")``.

    :param name: the argument's name, for the error message
    :raises StepConfigError: ``text`` is not a size; the message says what to write
    """
    if not isinstance(text, str):
        raise StepConfigError(
            f"{name}={text!r} has no unit; write a string with one, such as {name}='16GB' or {name}='16GiB'"
        )
    match = _SIZE.fullmatch(text.strip(" "))
    if match is None:
        if NUMBER.fullmatch(text.strip(" ")):
            number = text.strip(" ")
            raise StepConfigError(f"{name}={text!r} has no unit; write '{number}GB' or '{number}GiB'")
        raise StepConfigError(
            f"{name}={text!r} is not a size; write a positive number and a unit, such as '16GB' or '1.5GiB'"
        )
    number, unit = match.group(1), _unit(match.group(2), text, name)
    if Fraction(number) == 0:
        raise StepConfigError(
            f"{name}={text!r} must be more than zero; leave {name} out for the backend's default"
        )
    if Fraction(number) * _UNITS[unit] > _MAX_BYTES:
        raise StepConfigError(f"{name}={text!r} is more than 1 EiB; check the unit")
    number = number.lstrip("0") or "0"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return (f"0{number}" if number.startswith(".") else number), unit


def _unit(word: str, text: str, name: str) -> str:
    unit = _UNIT_OF.get(word.lower())
    is_bits = word.endswith("b") and (word == "b" or word[0].isupper())
    if unit is not None and not is_bits:
        return unit
    if unit is not None:
        raise StepConfigError(f"{name}={text!r}: {word!r} reads as bits; write {unit!r} for bytes")
    prefix = word.upper()
    if f"{prefix}B" in _UNITS:
        raise StepConfigError(
            f"{name}={text!r}: {word!r} is 10**n in some tools and 2**n in others; "
            f"write '{prefix}B' (decimal) or '{prefix}iB' (binary)"
        )
    raise StepConfigError(f"{name}={text!r}: unknown unit {word!r}; use one of {', '.join(_UNITS)}")


def seconds(value: object, name: str) -> float | None:
    """Return a duration in seconds; ``None`` stays ``None``.

    :raises StepConfigError: it is not positive, or no duration
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (timedelta, int, float)):
        raise StepConfigError(f"{name} must be a number of seconds or a timedelta, and this is {value!r}")
    try:
        result = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except OverflowError:
        result = LONGEST_S + 1
    if not 0 < result < float("inf"):
        raise StepConfigError(f"{name} must be positive, and this is {value!r}")
    if result > LONGEST_S:
        raise StepConfigError(f"{name} must be at most 100 years, and this is {reprlib.repr(value)}")
    return result
