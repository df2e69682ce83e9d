"""One emulator for the tests of the backend. Each test begins with a new account and a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobHandle
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.paths import result_path
from airflow_stepop.testing import Step, make_step
from tests.support.s3 import S3Server
from tests.support.sagemaker import SageMaker
from tests.support.sagemaker_fixtures import containers, emulator, service

__all__ = ["containers", "emulator", "service"]

CONNECTION = "AIRFLOW_CONN_AWS_DEFAULT"


@pytest.fixture
def store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    address = s3_server.new_address()
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    store = open_store(address)
    yield store
    store.delete_folder("")


@pytest.fixture
def connect(service: SageMaker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the connection; arguments are fields of its extra."""

    def set_connection(**extra: Any) -> None:
        stepop = extra.pop("stepop", {"settings": {"role": service.role}})
        monkeypatch.setenv(CONNECTION, service.connection(stepop=stepop, **extra))

    set_connection()
    return set_connection


@pytest.fixture
def hook(connect: Callable[..., None]) -> SageMakerStepHook:
    return SageMakerStepHook()


@pytest.fixture
def step(service: SageMaker, store: Store) -> Callable[..., Step]:
    """Return a function that makes a step with the store of the test."""

    def make(call: Any = ("true",), **options: Any) -> Step:
        settings = {"role": service.role, **options.pop("settings", {})}
        given = {"image": service.image, "settings": settings, **options}
        made = make_step(call, **given)
        result_uri = store.uri(result_path(made.spec.labels, made.spec.name))
        return Step(replace(made.spec, result_uri=result_uri), made.payload)

    return make


@pytest.fixture
def submit(hook: SageMakerStepHook, step: Callable[..., Step]) -> Callable[..., JobHandle]:
    def run(call: Any = ("true",), **options: Any) -> JobHandle:
        made = step(call, **options)
        return hook.submit(made.spec, made.payload)

    return run
