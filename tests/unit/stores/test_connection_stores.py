"""A store that a connection alone names, and references to it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from airflow_stepop.connections.defaults import ConnectionDefaults
from airflow_stepop.exceptions import IntegrityError, StepConfigError, StoreError
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall
from airflow_stepop.registry import create_hook
from airflow_stepop.results import StepResult
from airflow_stepop.runner.values import encode_data
from airflow_stepop.stores import configured
from airflow_stepop.stores.configured import connection_of, locate, open_store, store_of, use_connection

BASE = "results/_/d/r/t/-1/s-d-t-0123456789ab"


def connection(**defaults):
    return json.dumps({"conn_type": "generic", "extra": {"stepop": {"backend": "local", **defaults}}})


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """A process that uses no connection yet."""
    monkeypatch.setattr(configured, "_in_use", {})
    monkeypatch.setattr(configured, "_opened", {})


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address of a store that the connection ``gpu`` names, and no setting."""
    found = f"file://{tmp_path}/of_connection"
    monkeypatch.setenv("AIRFLOW_CONN_GPU", connection(store=found))
    return found


@pytest.fixture
def lookups(monkeypatch):
    """Count the look-ups of connections, which cost a request each."""
    from airflow.sdk import BaseHook

    seen: list[str] = []
    look_up = BaseHook.get_connection
    monkeypatch.setattr(
        BaseHook, "get_connection", lambda conn_id: (seen.append(conn_id), look_up(conn_id))[1]
    )
    return seen


def stored(address):
    """Write a value into a store, as a step does, and return its entry."""
    found: list[bytes] = []

    def save(buffers, digest, size):
        found.append(b"".join(bytes(one) for one in buffers))
        return {"name": f"{len(found)}.bin"}

    entry = encode_data(np.arange(50_000)).to_entry(save)
    for number, data in enumerate(found, 1):
        open_store(address).put_new(f"{BASE}/{number}.bin", data)
    return entry


def other_process():
    configured._in_use.clear()
    configured._opened.clear()


def test_a_reference_names_the_connection(address, lookups):
    """Another process, such as the next task's, reads it with one look-up."""
    create_hook("local", "gpu")
    result = StepResult.signed(stored(address), f"{address}/{BASE}")
    assert result.conn_id == "gpu"
    other_process()
    lookups.clear()
    again = StepResult.from_json(json.loads(json.dumps(result.to_json())))
    assert (again.load() == np.arange(50_000)).all()
    assert lookups == ["gpu"]


def test_an_xcom_names_the_connection(address):
    create_hook("local", "gpu")
    result = StepResult.signed(stored(address), f"{address}/{BASE}")
    other_process()
    again = StepResult.deserialize(json.loads(json.dumps(result.serialize())), 1)
    assert again == result
    assert (again.load() == np.arange(50_000)).all()


def test_a_next_step_gets_the_reference(address):
    """Its worker never reads the bytes. It may then sign addresses in that store."""
    create_hook("local", "gpu")
    result = StepResult.signed(stored(address), f"{address}/{BASE}")
    other_process()
    call = CommandCall(argv=["true"], inputs={"x": result}, outputs=[], workdir=None)
    payload = build_payload(call, job="s-x", nonce="n", split="no", is_result_wanted=False)
    uris = [one.uri for part in payload.parts.values() for one in part.ranges]
    assert uris
    assert [locate(uri)[0].url for uri in uris] == [address]


def test_many_reads_need_one_look_up(address, lookups, monkeypatch):
    """However many connections the process uses, and although those name no store."""
    for name in ("one", "two"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", connection())
        create_hook("local", name)
    for number in range(5):
        assert locate(f"{address}/{number}", conn_id="gpu")[1] == str(number)
        assert locate(f"{address}/{number}")[1] == str(number)
    assert lookups == ["gpu"]


def test_the_worker_that_submits_needs_none(address, lookups):
    """It has read the connection for the step's options."""
    store_of(ConnectionDefaults(conn_id="gpu", store=address))
    assert locate(f"{address}/x")[1] == "x"
    assert connection_of(f"{address}/x") == "gpu"
    assert lookups == []


def test_a_store_of_the_settings_needs_no_look_up(address, monkeypatch, lookups):
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", address)
    create_hook("local", "gpu")
    result = StepResult.signed(stored(address), f"{address}/{BASE}")
    assert result.conn_id == ""
    assert "conn_id" not in result.to_json(), "what an earlier version wrote stays as it was"
    result.load()
    assert lookups == []


def test_a_reference_to_an_unlisted_store_is_refused(address, tmp_path):
    """Neither the connection of the task nor one that the reference names opens another place."""
    create_hook("local", "gpu")
    elsewhere = f"file://{tmp_path}/elsewhere"
    for uri in (f"{elsewhere}/x", f"{address}x/y", f"{address}/../elsewhere/x", "s3://bucket/x"):
        with pytest.raises(StoreError, match="it lies outside the configured stores"):
            locate(uri, conn_id="gpu")
    result = StepResult.signed(stored(elsewhere), f"{elsewhere}/{BASE}")
    assert result.conn_id == ""
    with pytest.raises(StoreError, match="it lies outside the configured stores"):
        result.load()


def test_a_connection_that_the_process_does_not_use_opens_nothing(address):
    with pytest.raises(StoreError, match="it lies outside the configured stores"):
        locate(f"{address}/x")


def test_a_forged_reference_looks_nothing_up(address, lookups):
    """Whoever may write XComs cannot name a connection: also a reference to plain data has to be signed."""
    entry = stored(address)
    assert entry["codec"] == "numpy"
    forged = StepResult(entry, f"{address}/{BASE}", mac="0" * 64, conn_id="gpu")
    with pytest.raises(IntegrityError, match="was not signed by this deployment"):
        forged.load()
    signed = StepResult.signed(entry, f"{address}/{BASE}")
    signed.conn_id = "gpu"
    with pytest.raises(IntegrityError, match="was not signed by this deployment"):
        signed.load()
    assert lookups == []


@pytest.mark.parametrize("conn_id", ["missing", "without"])
def test_a_connection_that_names_no_store_any_more(address, monkeypatch, conn_id):
    monkeypatch.setenv("AIRFLOW_CONN_WITHOUT", connection())
    with pytest.raises(StoreError, match="it lies outside the configured stores"):
        locate(f"{address}/x", conn_id=conn_id)


def test_an_edit_of_the_connection(address, tmp_path, monkeypatch):
    use_connection("gpu")
    assert locate(f"{address}/x")[1] == "x"
    monkeypatch.setenv("AIRFLOW_CONN_GPU", connection(store=f"file://{tmp_path}/new"))
    assert locate(f"file://{tmp_path}/new/x")[1] == "x"
    with pytest.raises(StoreError, match="it lies outside"):
        locate(f"{address}/x")


def test_a_mistake_in_the_connection_is_named(address, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_GPU", connection(store="ftp://host/folder"))
    use_connection("gpu")
    with pytest.raises(StepConfigError, match="unknown scheme 'ftp'"):
        locate(f"{address}/x")


def test_a_task_may_name_the_store_of_its_connection(address):
    own = store_of(ConnectionDefaults(conn_id="gpu", store=address))
    assert configured.configured_store(address, own).url == address


def test_a_task_may_not_name_the_store_of_another_connection(address):
    """Also if this process has used that connection: a template may make ``store=``."""
    create_hook("local", "gpu")
    assert locate(f"{address}/x")[1] == "x"
    with pytest.raises(StepConfigError, match="is not configured"):
        configured.configured_store(address)


def test_the_same_store_with_other_credentials_is_refused(monkeypatch):
    """Which ones would read a reference could not be told."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "s3://one@bucket/stepop")
    with pytest.raises(StepConfigError, match=r"with another connection \(one\)"):
        store_of(ConnectionDefaults(conn_id="gpu", store="s3://two@bucket/stepop"))
    same = store_of(ConnectionDefaults(conn_id="gpu", store="s3://bucket/stepop"))
    assert same is not None
    assert connection_of(same.uri("x")) == ""
