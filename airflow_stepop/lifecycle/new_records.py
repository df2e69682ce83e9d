"""The record of a new generation, and the errors for a record without a job. The lifecycle calls it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import NewerVersionError
from airflow_stepop.failure import Category, Failure, StepFailedError
from airflow_stepop.lifecycle.memory import asked_options
from airflow_stepop.record import UPGRADE_HERE, StepRecord, first_record

if TYPE_CHECKING:
    from airflow_stepop.lifecycle.interfaces import Request


def new_record(
    request: Request,
    generation: int,
    *,
    resubmissions: int = 0,
    memory_bytes: int | None = None,
    alternative: int = 0,
) -> StepRecord:
    """Return the record of a new generation, which has no job yet.

    :param memory_bytes: least memory to ask for; ``None``: what the task asks for
    :param alternative: index of the kind of machine to ask for
    """
    record = first_record(
        call=request.call,
        backend=request.backend,
        conn_id=request.conn_id,
        labels=request.labels,
        generation=generation,
        resubmissions=resubmissions,
    )
    return replace(
        record,
        memory_bytes=memory_bytes,
        alternative=alternative,
        keep=request.keep,
        location=request.location,
        asked=asked_options(request),
    )


def record_is_gone() -> StepFailedError:
    return StepFailedError(
        Failure(
            Category.LOST,
            "the record of this step is gone from the task's state",
            hint="clear the task",
        )
    )


def newer_deadline(reason: object) -> NewerVersionError:
    return NewerVersionError(
        f"the job of this step is being stopped for {str(reason)[:80]!r}, a deadline that only a newer "
        f"airflow-stepop knows: {UPGRADE_HERE}"
    )


def has_no_job(record: StepRecord) -> StepFailedError:
    failure = Failure(Category.LOST, "the record of this step has no job", hint="clear the task")
    return StepFailedError(failure, record.name)
