"""Types of the JSON files in a local job's folder. Imported for type checkers only."""

from __future__ import annotations

from typing import TypedDict

from airflow_stepop.runner.wire import Failure, Receipt, Usage


class Gpus(TypedDict):
    """Number of GPUs for a step, and the GPUs to choose from: ``[id, visible, name]`` of each."""

    count: int
    devices: list[list[str]]


class Limits(TypedDict):
    """The limits that the supervisor enforces. ``None``: no limit."""

    cpu_count: int | None
    memory_bytes: int | None
    log_bytes: int
    timeout_s: float
    grace_period_s: float


class Request(TypedDict, total=False):
    """``request.json``, the submitted request. ``JobFolder.request`` checks the fields that it reads."""

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
    """``state.json``, the job's state; times are seconds since the epoch. ``JobFolder.state`` checks them."""

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
