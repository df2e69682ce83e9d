"""What the generations of a step ask for; ``on_oom`` raises the memory after a job that ran out of it.

Called by the lifecycle and the worker session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_stepop.core.units import shown_size
from airflow_stepop.failure import Category
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.resources import ResourceSettings

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.lifecycle.interfaces import Request
    from airflow_stepop.record import StepRecord


def next_memory(record: StepRecord, request: Request, log: Logger) -> int | None:
    """Return the memory for the generation after ``record``, bytes; ``None``: what the task asks for.

    After a job that ran out of memory, ``on_oom`` says how much more to ask for. Otherwise the memory
    stays as it was.
    """
    if record.call != request.call:
        return None  # the task was cleared or changed: begin again with the task's own value
    failure = Collected(record.collected).failure if record.collected else None
    on_oom = request.on_oom
    if on_oom is None or failure is None or failure.category is not Category.OOM:
        return record.memory_bytes
    before = memory_bytes(record, request)
    more = on_oom.after(before)
    if more is None:
        return record.memory_bytes
    log.warning(
        "The last try ran out of memory with %s: this try asks for %s (on_oom: at most %s)",
        *map(shown_size, (before, more, on_oom.cap_bytes)),
    )
    return more


def memory_bytes(record: StepRecord, request: Request) -> int:
    """Return the memory that the generation asks for, bytes; 0 means the backend's default."""
    return resources_of(record, request).at_least(record.memory_bytes).memory_bytes or 0


def resources_of(record: StepRecord, request: Request) -> ResourceSettings:
    """Return the resources that the generation was submitted with.

    They come from the record, because a user may have changed the connection's defaults since.
    """
    asked = record.asked.get("resources")
    return request.resources if asked is None else ResourceSettings.from_dict(asked)


def asked_options(request: Request) -> dict[str, Any]:
    """Return the options for the record's field ``asked``: those that the job is submitted with.

    A later process reads them from the record. A connection that was edited meanwhile does not change them.
    """
    return {
        "timeout_s": request.timeout_s,
        "start_timeout_s": request.start_timeout_s,
        "deferrable": request.deferrable,
        "resources": request.resources.serialize(),
    }
