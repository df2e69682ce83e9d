"""Compares the resources that a step used with those that it asked for.

The lifecycle records :func:`usage_of`. The worker session logs :func:`describe` and pushes the XCom
``usage``.

Pure functions over plain JSON. Missing or impossible numbers are left out, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from airflow_stepop.core.units import shown_size

if TYPE_CHECKING:
    from airflow_stepop.core.documents import StepUsage
    from airflow_stepop.resources import ResourceSettings

XCOM_KEY = "usage"  # renaming breaks DAGs that read this XCom

Measured = Literal["wall_s", "installing_s", "cpu_s", "peak_memory_bytes", "peak_gpu_memory_bytes"]
MEASURED: tuple[Measured, ...] = (
    "wall_s",
    "installing_s",
    "cpu_s",
    "peak_memory_bytes",
    "peak_gpu_memory_bytes",
)
MIB, GIB = 2**20, 2**30
LONGEST_TEXT = 1024  # of a service's own field

# When to give a hint
LONG_ENOUGH_S = 60.0  # a shorter step frees its resources too soon for a saving to matter
ROOM = 1.25  # the hint asks for this multiple of what was used
CLOSE = 0.9  # a peak over this share of the memory asked for is close to the limit
MUCH_BYTES = GIB  # a smaller saving of memory is not worth a hint


def usage_of(
    measured: Mapping[str, object], known: Mapping[str, object], asked: ResourceSettings, is_success: bool
) -> StepUsage:
    """Return a step's usage as JSON; empty if nothing is known.

    It has the fields of ``MEASURED``, ``asked``, ``hint``, and those of the service (:func:`own_fields`).

    :param measured: what the runner measured; empty when the step was killed together with its runner
    :param known: what the service measured; used for fields that the runner did not measure
    :param asked: the resources of the job
    :param is_success: whether the step succeeded
    """
    found: StepUsage = {}
    for name in MEASURED:
        of_runner, of_service = _number(measured, name), _number(known, name)
        number = of_service if of_runner is None else of_runner
        if number is not None:
            found[name] = number
    own = own_fields(known)
    if not found:
        return cast("StepUsage", own)
    wishes = {
        "cpu_count": asked.cpu_count,
        "memory_bytes": asked.memory_bytes,
        "gpu_count": asked.gpu_count or None,
    }
    found["asked"] = {name: value for name, value in wishes.items() if value is not None}
    advice = hint(found, is_success)
    return cast("StepUsage", {**own, **found, **({"hint": advice} if advice else {})})


def own_fields(known: Mapping[str, object]) -> dict[str, float | str]:
    """Return what a service says of a job in fields of its own, such as ``billable_s`` or ``instance_type``.

    A value is a number or a short text of one line. The names are those of the backend.
    """
    found: dict[str, float | str] = {}
    for name, value in known.items():
        number = _number(known, name)
        if name in (*MEASURED, "asked", "hint"):
            continue
        if number is not None:
            found[name] = number
        elif isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and value.isprintable():
            found[name] = value
    return found


def describe(usage: StepUsage) -> str:
    """Return the usage as one line for the log; empty when nothing is known."""
    asked = usage.get("asked") or {}
    wall_s, installing_s, cpu_s, memory, gpu = (_number(usage, name) for name in MEASURED)
    parts = []
    if wall_s is not None:
        parts.append(f"{_time(wall_s)} wall")
    if installing_s is not None:
        parts.append(f"{_time(installing_s)} of it installing")
    if cpu_s is not None:
        parts.append(f"{_time(cpu_s)} CPU{_share(cpu_s, _own_s(usage), _number(asked, 'cpu_count'))}")
    if memory is not None:
        limit = _number(asked, "memory_bytes")
        parts.append(f"peak {shown_size(memory)}" + (f" of {shown_size(limit)} asked" if limit else ""))
    if gpu is not None:
        parts.append(f"peak {shown_size(gpu)} of GPU memory")
    parts += [_own_part(name, value) for name, value in own_fields(usage).items()]
    if not parts:
        return ""
    advice = usage.get("hint")
    return f"used {', '.join(parts)}" + (f"; {advice}" if advice else "")


def _own_part(name: str, value: float | str) -> str:
    """Return a field of the backend for people: ``billable_s`` as ``billable 40 s``."""
    words = name.removesuffix("_s").replace("_", " ")
    if isinstance(value, str):
        return f"{words} {value}"
    if name.endswith("_s"):
        return f"{words} {_time(value)}"
    return f"{words} {value:.0%}".replace("%", " %") if name.endswith("_saving") else f"{words} {value:g}"


def used_cores(usage: Mapping[str, object]) -> float | None:
    """Return how many CPU cores the step used on average; ``None`` if that is unknown."""
    own_s, cpu_s = _own_s(usage), _number(usage, "cpu_s")
    return cpu_s / own_s if own_s and cpu_s is not None else None


def _own_s(usage: Mapping[str, object]) -> float | None:
    """Return the seconds of the step itself, without those in which its requirements were installed."""
    wall_s, installing_s = _number(usage, "wall_s"), _number(usage, "installing_s") or 0.0
    return None if wall_s is None else max(wall_s - installing_s, 0.0)


def hint(usage: StepUsage, is_success: bool) -> str:
    """Return which arguments to change, with values; empty when no change is worth it."""
    own_s = _own_s(usage) or 0.0
    # a failed step may have ended before its peak
    is_representative = is_success and own_s >= LONG_ENOUGH_S
    advice = [_memory_hint(usage, is_representative), _cpu_hint(usage, own_s) if is_representative else ""]
    return ", ".join(part for part in advice if part)


def _memory_hint(usage: StepUsage, is_representative: bool) -> str:
    asked, peak = _number(usage.get("asked") or {}, "memory_bytes"), _number(usage, "peak_memory_bytes")
    if not asked or peak is None:
        return ""
    enough = _round_up(peak * ROOM)
    if peak >= CLOSE * asked and enough > asked:
        place = "at" if peak >= asked else "close to"
        return f'that is {place} its limit: memory="{_argument(enough)}" leaves room'
    if is_representative and enough <= asked / 2 and asked - enough >= MUCH_BYTES:
        return f'memory="{_argument(enough)}" would do'
    return ""


def _cpu_hint(usage: StepUsage, own_s: float) -> str:
    asked, cpu_s = _number(usage.get("asked") or {}, "cpu_count"), _number(usage, "cpu_s")
    if asked is None or cpu_s is None:
        return ""
    enough = max(1, math.ceil(cpu_s / own_s * ROOM))
    return f"cpu_count={enough} would do" if enough <= asked / 2 else ""


def _round_up(size: float) -> int:
    """Round ``size`` up to a size that a person would write."""
    for below, step in ((GIB, 128 * MIB), (4 * GIB, 512 * MIB), (64 * GIB, GIB)):
        if size <= below:
            return max(math.ceil(size / step), 1) * step
    return math.ceil(size / (8 * GIB)) * 8 * GIB


def _argument(size: int) -> str:
    return f"{size / GIB:.10g}GiB" if size >= GIB else f"{size // MIB}MiB"


def _number(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 2**63 else None


def _share(cpu_s: float, own_s: float | None, cores: float | None) -> str:
    if not own_s or not cores:
        return ""
    return f" ({cpu_s / (own_s * cores):.0%} of {cores:g} core{'' if cores == 1 else 's'} asked)".replace(
        "%", " %"
    )


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
