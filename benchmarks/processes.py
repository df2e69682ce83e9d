"""Starts measured processes, and speaks to them. The benchmarks of SageMaker and Modal use it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_stepop.job import JobHandle
from benchmarks.measure import IS_SHORT, environment

ROOT = Path(__file__).resolve().parents[1]


def quieten() -> None:
    """Turn off the logs of this process: the operator logs a lot."""
    import structlog

    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@contextlib.contextmanager
def variables(given: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and remove them at the end."""
    os.environ |= given
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)


@contextlib.contextmanager
def child(module: str, given: Any) -> Iterator[subprocess.Popen[str]]:
    """Start ``python -m MODULE FILE``, with ``given`` as JSON in the file; end it at the end.

    The child prints lines of JSON, and reads commands from its standard input.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", module, file.name],
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def told(process: subprocess.Popen[str]) -> Any:
    """Return the next line of JSON that a child prints.

    :raises RuntimeError: the child has ended
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"the measured process has ended with {process.wait()}")


def tell(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()


def as_json(handles: Sequence[JobHandle]) -> list[Any]:
    return [handle.to_json() for handle in handles]


def count_of(normal: int, short: int) -> int:
    return short if IS_SHORT else normal
