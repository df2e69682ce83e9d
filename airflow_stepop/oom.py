"""What the next try of a step asks for when the last one ran out of memory. DAG files import this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from airflow_stepop.core.units import format_size, parse_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.resources import ResourceSettings

MIB = 2**20
LARGEST_FACTOR = 100


@dataclass(frozen=True, kw_only=True)
class MoreMemory:
    """``on_oom=MoreMemory(cap="64GiB")``: a step that ran out of memory asks for more at its next try.

    A try is one of the task's ``retries``. Clearing the task starts again from what it asks for.

    :param cap: the most it may ask for, written like ``ResourceSettings(memory=...)``
    :param factor: times as much as the try before
    """

    cap: str
    factor: float = 1.5

    def __post_init__(self) -> None:
        parse_size(self.cap, "cap")
        is_number = isinstance(self.factor, (int, float)) and not isinstance(self.factor, bool)
        if not is_number or not 1 < self.factor <= LARGEST_FACTOR:
            raise StepConfigError(
                f"factor={self.factor!r} must be a number above 1, up to {LARGEST_FACTOR}; write factor=1.5"
            )

    @property
    def cap_bytes(self) -> int:
        return parse_size(self.cap, "cap")

    def after(self, memory_bytes: int) -> int | None:
        """Return what to ask for after ``memory_bytes`` were too few; ``None`` when there is no more."""
        wanted = math.ceil(memory_bytes * self.factor / MIB) * MIB
        found = min(wanted, self.cap_bytes)
        return found if found > memory_bytes else None

    def advice(self, memory_bytes: int, has_retry: bool) -> tuple[str | None, str]:
        """Return what the next try asks for, if there will be one, and the sentence that says so."""
        if (more := self.after(memory_bytes)) is None:
            return None, f"it had {format_size(memory_bytes)}, which is the cap of on_oom; raise the cap"
        if not has_retry:
            return None, f"no try is left that could ask for {format_size(more)} (on_oom); raise retries"
        return format_size(more), f"nothing yet: the next try asks for {format_size(more)} (on_oom)"


def parse_on_oom(value: Any) -> MoreMemory | None:
    """Return what the argument ``on_oom`` means; ``None`` for ``"fail"``.

    :raises StepConfigError: it is none of what is valid
    """
    if value == "fail":
        return None
    if isinstance(value, MoreMemory):
        return value
    if not isinstance(value, Mapping):
        raise StepConfigError(f'on_oom={value!r} is neither "fail" nor MoreMemory(cap="64GiB", factor=1.5)')
    valid = [field.name for field in fields(MoreMemory)]
    if unknown := [str(name) for name in value if name not in valid]:
        raise StepConfigError(f"on_oom has no {', '.join(unknown)}; its fields are {', '.join(valid)}")
    if "cap" not in value:
        raise StepConfigError('on_oom needs a cap: write on_oom={"cap": "64GiB", "factor": 1.5}')
    return MoreMemory(**value)


def check_on_oom(
    on_oom: Any, resources: ResourceSettings | None, retries: Any, *, is_complete: bool = True
) -> None:
    """Check ``on_oom`` beside the arguments that it depends on.

    :param resources: as far as they are known now; ``None`` when the task names none
    :param is_complete: whether nothing can be added to them; else the connection may give the memory
    :raises StepConfigError: it could never do anything
    """
    more = parse_on_oom(on_oom)
    if more is None:
        return
    if retries == 0:
        raise StepConfigError("on_oom needs a next try, and retries is 0; leave retries out, or raise it")
    if resources is None or resources.memory is None:
        if not is_complete:
            return
        raise StepConfigError(
            "on_oom needs the memory to begin with: "
            'write resource_settings=ResourceSettings(memory="8GiB") beside it'
        )
    if resources.is_literal and more.after(resources.memory_bytes or 0) is None:
        raise StepConfigError(f"on_oom: its cap {more.cap} is not more than memory={resources.memory!r}")
