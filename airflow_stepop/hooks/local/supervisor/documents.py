"""The files of a local job's folder that are JSON, as types. Imported for type checkers only."""

from __future__ import annotations

from typing import TypedDict

from airflow_stepop.runner.wire import Failure, Receipt, Usage


class Gpus(TypedDict):
    """How many GPUs a step gets, and of which: ``[id, visible, name]`` of each."""

    count: int
    devices: list[list[str]]


class Limits(TypedDict):
    """What the supervisor enforces."""

    cpu_count: int | None
    memory_bytes: int | None
    log_bytes: int
    timeout_s: float
    grace_period_s: float


class Request(TypedDict, total=False):
    """``request.json``: what was submitted; ``JobFolder.request`` checks which fields are there."""

    name: str
    nonce: str
    labels: dict[str, str]
    result_uri: str
    argv: list[str]
    env: dict[str, str]
    system: str
    gpus: Gpus
    limits: Limits


class State(TypedDict, total=False):
    """``state.json``; ``JobFolder.state`` checks which fields are there."""

    state: str
    pid: int
    boot_id: str
    started_at: float | None
    finished_at: float | None
    exit_code: int | None
    signal: str | None
    failure: Failure | None
    receipt: Receipt | None
    usage: Usage
    tmp: str
