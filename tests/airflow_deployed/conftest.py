"""One real Airflow for all tests of this folder. ``make test`` runs them one after another, without xdist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import deployment
from tests.support.statsd_server import StatsdServer

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
    tmp_path_factory: pytest.TempPathFactory, statsd: StatsdServer
) -> Iterator[deployment.Deployment]:
    """A running deployment, on PostgreSQL if one is available."""
    postgres = deployment.Postgres.if_any()
    found = deployment.Deployment(
        tmp_path_factory.mktemp("airflow"), HERE / "dags", statsd.env, postgres=postgres
    )
    with found.running():
        yield found


@pytest.fixture
def free_port() -> int:
    return deployment.free_port()
