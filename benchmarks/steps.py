"""Runs one step from its submission until its value is loaded, without Airflow.

``data.py`` and ``kubernetes/transfer.py`` call :func:`run_step`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import spill
from airflow_stepop.results import StepResult
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import make_step

LOOK_S = 0.005


def run_step(hook: StepHook, call: FunctionCall, address: str, look_s: float = LOOK_S, **options: Any) -> Any:
    """Run a step and return its value.

    :param address: address of the store for large values; the values are left there
    :param look_s: seconds between two looks at the job
    :param options: fields of the step's spec
    :raises RuntimeError: the step failed
    """
    store = open_store(address)
    step = make_step(call, result_uri=store.uri("results"), **options)
    with _configured(address):
        payload = spill(step.payload, lambda: store, hook.inline_limit)
        spec = replace(step.spec, digest=payload.digest)
        handle = hook.submit(spec, payload)
        while not (status := hook.status([handle])[handle]).state.is_terminal:
            time.sleep(look_s)
        found = read_outcome(hook.outcome(handle), spec.name, spec.nonce)
        if "failure" in found:
            raise RuntimeError(f"{status}: {found['failure']}")
        result = to_xcom(found["result"])
        loaded = result.load() if isinstance(result, StepResult) else result
        hook.delete(handle)
    return loaded


@contextmanager
def _configured(address: str) -> Iterator[None]:
    name = "AIRFLOW__STEPOP__STORE"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
