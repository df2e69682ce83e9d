"""A bucket that only the connection of SageMaker names: from the submit to a result that is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.exceptions import StoreError
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.registry import create_hook
from airflow_stepop.results import StepResult
from airflow_stepop.stores import configured
from airflow_stepop.stores.configured import locate, open_store
from airflow_stepop.stores.paths import result_path
from airflow_stepop.testing import Step, make_step
from tests.support.waiting import wait_until


@pytest.fixture
def bucket(connect, service, s3_server, monkeypatch):
    """The bucket, which no setting names. The process uses no connection yet."""
    monkeypatch.setattr(configured, "_in_use", {})
    monkeypatch.setattr(configured, "_opened", {})
    address = s3_server.new_address()
    connect(stepop={"settings": {"role": service.role}, "store": address})
    store = open_store(address)
    yield store
    store.delete_folder("")


@pytest.fixture
def made(service, bucket):
    def data() -> bytes:
        return b"x" * 200_000

    options = {"image": service.image, "settings": {"role": service.role}}
    made = make_step(data, **options)
    uri = bucket.uri(result_path(made.spec.labels, made.spec.name))
    return Step(replace(made.spec, result_uri=uri), made.payload)


def test_a_step_and_its_result(containers, service, bucket, made):
    hook = create_hook("sagemaker")
    handle = hook.submit(made.spec, made.payload)
    wait_until(
        lambda: hook.status([handle])[handle].state, "the end of the job", holds=lambda s: s.is_terminal
    )
    data = read_outcome(hook.outcome(handle), made.spec.name, made.spec.nonce)
    reference = to_xcom(data["result"])
    assert isinstance(reference, StepResult)
    assert reference.conn_id == "aws_default"
    configured._in_use.clear()  # as in the process of another task, which has no connection
    configured._opened.clear()
    with pytest.raises(StoreError, match="it lies outside the configured stores"):
        locate(f"{reference.base_uri}/x")
    assert reference.load() == b"x" * 200_000
    create_hook("sagemaker").delete(handle)
    assert not list(bucket.list("jobs"))


def test_check_names_the_bucket(service, bucket):
    found = [
        one for one in create_hook("sagemaker").check() if "bucket" in one.subject or "store" in one.subject
    ]
    assert found
    assert all(one.is_ok for one in found)
    assert bucket.url in " ".join(one.message for one in found)


def test_a_store_of_another_connection_is_refused(service, bucket, made, connect):
    """The connection that the job uses names another bucket now."""
    connect(stepop={"settings": {"role": service.role}, "store": f"{bucket.url}-other"})
    with pytest.raises(StoreError, match="it lies outside the configured stores"):
        create_hook("sagemaker").submit(made.spec, made.payload)
    assert not list(bucket.list(""))
