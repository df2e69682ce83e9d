"""How often a task looks its connection up. Each lookup may be a paid request to a secrets backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.third_party import write_distribution

pytestmark = pytest.mark.timeout(900)

DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="module")
def lookups(start_airflow, tmp_path_factory):
    """Return the ids of the connections that each task of the DAG has looked up."""
    folder = tmp_path_factory.mktemp("lookups")
    write_distribution(folder / "site", "counted", "lookups_sources:CountedHook")
    airflow = start_airflow(
        PYTHONPATH=f"{folder / 'site'}:{DAGS}",
        AIRFLOW__SECRETS__BACKEND="lookups_sources.CountedSecrets",
        STEPOP_TEST_LOOKUPS=str(folder / "lookups"),
    )
    run = airflow.run(DAGS / "lookups.py")
    for task in ("default", "named"):
        run.assert_state(task)
    return (folder / "lookups").read_text().split()


@pytest.mark.parametrize("conn_id", ["counted_default", "counted_named"])
def test_a_task_looks_its_connection_up_once(lookups, conn_id):
    assert lookups.count(conn_id) == 1, lookups
