"""``airflow stepop check``: what works is said, what does not fails the command."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.timeout(120)]


def rows(said):
    return {row["what"]: row for row in said.data}


@pytest.fixture(autouse=True)
def store(home, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "tests")
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "secret")
    return tmp_path / "store"


def test_everything_works(stepop, store):
    """Backends, stores and the configuration are looked at; nothing is left in the store."""
    said = stepop("check", "-o", "json")
    assert said.code == 0, said.out
    found = rows(said)
    assert {"host", "folder", "store", "signing key", "deployment"} <= set(found)
    assert found["store"]["found"].startswith(f"file://{store} can be written")
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_written(stepop, store):
    """The store's own error is shown, with what to do."""
    store.touch()
    said = stepop("check", "-o", "json")
    assert said.code == 1
    assert rows(said)["store"]["ok"] == "NO"
    assert str(store) in rows(said)["store"]["found"]
    assert rows(said)["store"]["what to do"]


def test_a_store_that_is_misspelt(stepop, monkeypatch):
    """An address that is none is a finding, and the rest is looked at all the same."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "ftp://host/folder")
    said = stepop("check", "-o", "json")
    assert said.code == 1
    assert "ftp://host/folder" in rows(said)["store"]["found"]
    assert rows(said)["host"]["ok"] == "yes"


def test_what_several_hosts_must_agree_upon(stepop, monkeypatch):
    """With a store of its own, a deployment needs a name and a key; on one host it needs neither."""
    monkeypatch.delenv("AIRFLOW__STEPOP__DEPLOYMENT")
    monkeypatch.delenv("AIRFLOW__STEPOP__SIGNING_KEY")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    said = stepop("check", "-o", "json")
    assert said.code == 1
    assert [what for what, row in rows(said).items() if row["ok"] == "NO"] == ["signing key", "deployment"]
    monkeypatch.delenv("AIRFLOW__STEPOP__STORE")
    assert stepop("check", "-o", "json").code == 0


def test_one_connection(stepop, monkeypatch):
    """A connection is checked by itself; one that leads nowhere says what to write."""
    monkeypatch.setenv("AIRFLOW_CONN_HERE", '{"conn_type": "generic", "extra": {"backend": "local"}}')
    said = stepop("check", "here", "-o", "json")
    assert said.code == 0
    assert {row["where"] for row in said.data} == {"local (here)"}
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://example.com")
    assert "leads to no backend" in stepop("check", "web").err
    assert "there is no connection 'nowhere'" in stepop("check", "nowhere").err


def test_a_backend_that_is_not_installed(stepop, monkeypatch):
    """It fails when it is named; without, a connection that others use does not fail the command."""
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD", '{"conn_type": "aws"}')
    said = stepop("check", "cloud", "-o", "json")
    assert said.code == 1
    assert "sagemaker" in said.out + said.err
    assert stepop("check", "-o", "json").code == 0
