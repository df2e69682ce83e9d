"""Temporary credentials of an assumed role, through the whole life of a step."""

from __future__ import annotations

import json
import re
import time

import pytest

from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobState
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import spill
from airflow_stepop.stores.configured import open_store
from tests.support.s3_sessions import SessionGate
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("containers"),
    pytest.mark.filterwarnings("ignore"),  # of the Amazon provider
]
# obstore asks for short-lived credentials anew, but at most ten times a second
PAUSE_S = 0.2
CALLER = "arn:aws:iam::123456789012:role/airflow"


@pytest.fixture
def gate(service, s3_server):
    gate = SessionGate(service, s3_server)
    yield gate
    gate.close()


@pytest.fixture
def assumed(service, gate, monkeypatch):
    """The connection assumes a role for all services. Its own keys are good for nothing else."""
    made = json.loads(service.connection(role_arn=CALLER, stepop={"settings": {"role": service.role}}))
    made["extra"]["service_config"]["s3"]["endpoint_url"] = gate.url
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(made))


@pytest.fixture
def store(assumed, s3_server, monkeypatch):
    address = s3_server.new_address().replace(s3_server.conn_id, "aws_default")
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    store = open_store(address)
    yield store
    store.delete_folder("")


def test_credentials_that_expire_in_the_middle(service, gate, step, store):
    """No call is refused: whoever needs credentials renews them before they expire.

    They say that they are valid for a minute, and are refused after each call of the hook.
    """
    service.do("settings", session_s=60.0)
    pattern = FunctionCall(
        function=lambda text: [re.compile(text[:1]), text], args=("x" * 300_000,), kwargs={}, reference=None
    )
    made = step(pattern, secrets={"TOKEN": "hush"})
    payload = spill(made.payload, lambda: store, 1000)
    hook = SageMakerStepHook()

    def after(answer):
        time.sleep(PAUSE_S)
        service.do("expire_sessions")
        return answer

    handle = after(hook.submit(made.spec, payload))
    assert after(hook.lookup(made.spec)) == handle
    status = wait_until(
        lambda: after(hook.status([handle])[handle]), "the end", holds=lambda seen: seen.state.is_terminal
    )
    assert status.state is JobState.SUCCEEDED, service.log(handle.name)
    assert after(hook.logs({handle: None}))[handle].receipt
    report = after(hook.outcome(handle))
    assert report.digest
    result = to_xcom(read_outcome(report, made.spec.name, made.spec.nonce)["result"])
    assert after(result.load()) == [re.compile("x"), "x" * 300_000]
    assert [found.handle.name for found in after(list(hook.find(made.spec.labels)))] == [handle.name]
    after(hook.delete(handle))
    assert hook.lookup(made.spec) is None
    assert not list(store.list("jobs"))
    assert len(gate.seen) > 3, "credentials were renewed"
    assert gate.refused == []
    refusals = [answer for answer in service.report()["answers"] if "Expired" in answer]
    assert refusals == []
