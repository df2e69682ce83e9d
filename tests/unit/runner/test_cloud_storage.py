"""The runner's requests to signed addresses of Cloud Storage that create an object and replace none."""

from __future__ import annotations

import json
import time

import pytest

from airflow_stepop.runner import once
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import open_store
from tests.support.gcs import Gcs

NONCE = "n0nce"


@pytest.fixture
def place(gcs_server: Gcs) -> once._Addresses:
    """The place of a marker that nobody has created."""
    store = open_store(gcs_server.new_address())
    assert isinstance(store, BucketStore)
    until = time.time() + 600
    (put,) = store.sign("PUT", ["started"], until, is_new=True)
    (get,) = store.sign("GET", ["started"], until)
    return once._Addresses({"put": put, "get": get, "create_only": dict(store.put_headers(is_new=True))})


def test_the_first_job_is_the_one_that_runs(place: once._Addresses) -> None:
    assert once._claim(place, "job-1", NONCE) == ("job-1", 1)
    assert once._claim(place, "job-2", NONCE) == ("job-1", 1), "which another one is told"


def test_a_restart_is_known_and_its_marker_stays(
    place: once._Addresses, capfd: pytest.CaptureFixture[str]
) -> None:
    once._claim(place, "job-1", NONCE)
    assert once._claim(place, "job-1", NONCE) == ("job-1", 2)
    found = json.loads(place.read() or b"")
    assert found["attempt"] == 1, "the address allows no replacement"
    said = capfd.readouterr()
    assert "the attempts of the job are not counted" in said.out + said.err
    assert "X-Goog-Signature" not in said.out + said.err
