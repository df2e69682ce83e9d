"""The argument ``on_oom``: more memory for the next try of a step that ran out of memory.

DAG files import this module. The operator checks the argument, and the lifecycle applies it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from airflow_stepop.core.units import parse_size, shown_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.resources import ResourceSettings

MIB = 2**20
LARGEST_FACTOR = 100


@dataclass(frozen=True, kw_only=True)
class MoreMemory:
    """``on_oom=MoreMemory(cap="64GiB")``: a step that ran out of memory asks for more at its next try.

    The next try is one of the task's ``retries``. After a clear, the task starts again with the memory of its
    ``resource_settings``.

    :param cap: the largest memory that a try may ask for, written like ``ResourceSettings(memory=...)``
    :param factor: each try asks for this many times the memory of the try before; above 1, up to 100
    :raises StepConfigError: a value is not valid
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
        """Return the memory for the next try, in bytes; ``None`` if ``memory_bytes`` has reached the cap.

        :param memory_bytes: the memory of the try that ran out of memory
        """
        wanted = math.ceil(memory_bytes * self.factor / MIB) * MIB
        found = min(wanted, self.cap_bytes)
        return found if found > memory_bytes else None

    def advice(self, memory_bytes: int, has_retry: bool) -> tuple[str | None, str]:
        """Return the memory of the next try, and the advice for the error message.

        The memory is a text such as ``"12 GiB"``; ``None`` if the cap is reached or no retry is left.
        """
        if (more := self.after(memory_bytes)) is None:
            return None, f"it had {shown_size(memory_bytes)}, which is the cap of on_oom; raise the cap"
        if not has_retry:
            return None, f"no try is left that could ask for {shown_size(more)} (on_oom); raise retries"
        return shown_size(more), f"nothing yet: the next try asks for {shown_size(more)} (on_oom)"


def parse_on_oom(value: Any) -> MoreMemory | None:
    """Return the argument ``on_oom`` as ``MoreMemory``; ``None`` for ``"fail"``.

    :raises StepConfigError: ``value`` is not valid
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
    """Check ``on_oom`` together with the arguments that it depends on.

    :param resources: the resources, as far as they are known now; ``None`` if the task names none
    :param is_complete: whether nothing can be added to the resources; else the connection may give the memory
    :raises StepConfigError: ``on_oom`` is not valid, or could never have an effect
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
            "on_oom needs the memory of the first try: "
            'write resource_settings=ResourceSettings(memory="8GiB") beside it'
        )
    if resources.is_literal and more.after(resources.memory_bytes or 0) is None:
        raise StepConfigError(f"on_oom: its cap {more.cap} is not more than memory={resources.memory!r}")
