"""Results in Cloud Storage. ``make test-long`` runs more tests of results with this store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


def test_many_values_lie_in_the_bucket(airflow_process, gcs_server):
    env = {f"AIRFLOW_CONN_{gcs_server.conn_id.upper()}": gcs_server.connection()}
    place = airflow_process.place("gs-many", gcs_server.new_address(), env)
    run = airflow_process.run(Path(__file__).parent / "dags" / "many.py", place=place)
    assert set(run.states.values()) == {"success"}, run.states
    found = run.results("objects")
    assert 1 <= len(found) <= 64
    assert sum(one.size for one in found) > 190 * 256
    assert len(json.dumps(run.value("objects"))) < 200_000, "two hundred references"
