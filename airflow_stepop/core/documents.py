"""What a step's record in Airflow holds as JSON, as types. Imported for type checkers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from airflow_stepop.runner.wire import Failure


class StepUsage(TypedDict, total=False):
    """What a step used and asked for; see ``lifecycle/usage.py``.

    It may have more fields: those of the backend, such as ``billable_s`` and ``instance_type``.
    """

    wall_s: float
    installing_s: float
    cpu_s: float
    peak_memory_bytes: float
    peak_gpu_memory_bytes: float
    asked: dict[str, float]
    hint: str


class StoredResult(TypedDict):
    """Where a collected result lies that is too large for the record."""

    uri: str
    sha256: str
    size: int
    host: str


class CollectedValue(TypedDict, total=False):
    """One value: ``plain`` if Airflow can store it as it is, else a ``reference``."""

    plain: Mapping[str, object]
    reference: Mapping[str, object]


class CollectedResult(TypedDict, total=False):
    """What a step returned; one field is there."""

    dict: Mapping[str, CollectedValue]
    list: Sequence[CollectedValue]
    value: CollectedValue
    nothing: bool
    stored: StoredResult


class CollectedData(TypedDict, total=False):
    """A ``result`` or a ``failure``, and the ``usage``."""

    result: CollectedResult
    failure: Failure
    usage: StepUsage
