"""Reads ``cpu`` and ``memory`` of the settings: a request, or a pair of request and limit.

Source: https://modal.com/docs/guide/resources
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

LEAST_CPU, LEAST_MIB = 0.125, 128  # what each sandbox has

N = TypeVar("N", int, float)


def as_cpu(given: Any) -> float | tuple[float, float] | None:
    """Return ``cpu``: physical cores, or a pair.

    :raises ValueError: it is no number, or too small; says what to write
    """
    return _one_or_pair(given, _cores)


def as_memory(given: Any) -> int | tuple[int, int] | None:
    """Return ``memory``: MiB, or a pair. Modal's client takes a fraction for no memory at all.

    :raises ValueError: it is no whole number, or too small; says what to write
    """
    return _one_or_pair(given, _mib)


def _one_or_pair(given: Any, read: Callable[[Any], N]) -> N | tuple[N, N] | None:
    if given is None:
        return None
    if not isinstance(given, (list, tuple)):
        return read(given)
    if len(given) != 2:
        raise ValueError(f"{given!r} is neither a number nor a pair; write (request, limit)")
    request, limit = map(read, given)
    if limit < request:
        raise ValueError(f"the limit {limit} is below the request {request}; write (request, limit)")
    return request, limit


def _cores(given: Any) -> float:
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not is_number or not math.isfinite(given) or given < LEAST_CPU:
        raise ValueError(f"{given!r} is no number of cores; write at least {LEAST_CPU}, such as 4.0")
    return float(given)


def _mib(given: Any) -> int:
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not is_number or given != given // 1 or not LEAST_MIB <= given < 2**31:
        sized = ", or resource_settings=ResourceSettings(memory='16GiB')" if isinstance(given, str) else ""
        raise ValueError(
            f"{given!r} is no number of MiB; write a whole one of at least {LEAST_MIB}, such as 16384{sized}"
        )
    return int(given)
