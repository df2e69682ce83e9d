"""One real Airflow for all tests of this folder. ``make test`` runs them one after another, without xdist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import deployment
from tests.support.cloud_fixtures import (
    cloud_env,
    home,
    modal_or_none,
    modal_service,
    sagemaker_or_none,
    training_service,
)
from tests.support.statsd_server import StatsdServer

__all__ = ["cloud_env", "home", "modal_or_none", "modal_service", "sagemaker_or_none", "training_service"]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdServer]:
    """The server that receives the deployment's metrics."""
    server = StatsdServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def airflow(
    home: Path, statsd: StatsdServer, cloud_env: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[deployment.Deployment]:
    """A running deployment, on PostgreSQL if one is available. Only steps on SageMaker have a bucket."""
    env = {**statsd.env, **cloud_env}
    if "AIRFLOW_CONN_AWS_DEFAULT" in env:
        server = request.getfixturevalue("s3_server")
        env[f"AIRFLOW_CONN_{server.conn_id.upper()}"] = server.connection()
        env["AIRFLOW__STEPOP__EXTRA_STORES"] = server.new_address()
    postgres = deployment.Postgres.if_any()
    found = deployment.Deployment(home, HERE / "dags", env, postgres=postgres)
    with found.running():
        yield found


@pytest.fixture
def free_port() -> int:
    return deployment.free_port()
