"""One real Airflow whose parts the tests of this folder kill. The tests run one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.crashes.crash_table import CrashedTask, CrashTable
from tests.support import deployment
from tests.support.cloud_fixtures import (
    cloud_env,
    home,
    modal_or_none,
    modal_service,
    sagemaker_or_none,
    training_service,
)
from tests.support.line import Line
from tests.support.needs import needs

__all__ = ["cloud_env", "home", "modal_or_none", "modal_service", "sagemaker_or_none", "training_service"]

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-crash-table", action="store_true", help="write what was measured into the page")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def airflow(
    home: Path, cloud_env: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[deployment.Deployment]:
    """A running deployment. It uses PostgreSQL and an S3 bucket where this machine has them."""
    env, cable = dict(cloud_env), None
    if os.environ.get("STEPOP_S3SERVER"):
        server = request.getfixturevalue("s3_server")
        cable, address = Line(server.endpoint), server.new_address()
        env[f"AIRFLOW_CONN_{server.conn_id.upper()}"] = replace(server, endpoint=cable.url).connection()
        env |= {"AIRFLOW__STEPOP__EXTRA_STORES": address, "STEPOP_TEST_STORE": address}
    postgres = deployment.Postgres.if_any()
    found = deployment.Deployment(home, HERE / "dags", env, postgres=postgres, line=cable)
    with found.running():
        yield found


@pytest.fixture(scope="session")
def table() -> CrashTable:
    """The rows that this session has measured."""
    return CrashTable()


@pytest.fixture(scope="module")
def crashed(airflow: deployment.Deployment, table: CrashTable) -> Callable[[str, str, str], CrashedTask]:
    """Return a function that takes DAG, run and task id, and returns the task for a crash."""
    return lambda dag_id, run, task_id: CrashedTask(airflow, table, dag_id, run, task_id)


@pytest.fixture(scope="session")
def postgres_or_skip(airflow: deployment.Deployment) -> Callable[[], None]:
    """Return a function that a test calls where it needs PostgreSQL."""

    def check() -> None:
        needs(airflow.postgres, deployment.A_POSTGRES)

    return check
