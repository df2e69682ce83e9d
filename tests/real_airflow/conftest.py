"""One real Airflow for all tests of this folder. They take turns: ``make test`` runs them without xdist."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from line import Line  # noqa: E402 - beside this folder, for other tests too
from statsd_server import StatsdServer  # noqa: E402


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"stepop_tests_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


deployment = _load("deployment")
crash_table = _load("crash_table")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-crash-table", action="store_true", help="write what was measured into the page")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdServer]:
    """The server that the deployment sends its metrics to."""
    server = StatsdServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, statsd: StatsdServer, request: pytest.FixtureRequest
) -> Iterator[object]:
    """A running deployment; on PostgreSQL, and with a bucket of S3, when there is one."""
    folder, env, cable = tmp_path_factory.mktemp("airflow"), dict(statsd.env), None
    if os.environ.get("STEPOP_S3SERVER"):
        server = request.getfixturevalue("s3_server")
        cable, address = Line(server.endpoint), server.new_address()
        env[f"AIRFLOW_CONN_{server.conn_id.upper()}"] = replace(server, endpoint=cable.url).connection()
        env |= {"AIRFLOW__STEPOP__EXTRA_STORES": address, "STEPOP_TEST_STORE": address}
    postgres = deployment.Postgres.if_any()
    found = deployment.Deployment(folder, HERE / "dags", env, postgres=postgres, line=cable)
    with found.running():
        yield found


@pytest.fixture
def free_port() -> int:
    return int(deployment.free_port())


@pytest.fixture(scope="session")
def table() -> object:
    """What the crashes of this session came to."""
    return crash_table.CrashTable()


@pytest.fixture(scope="module")
def crashed(airflow: object, table: object) -> Callable[[str, str, str], object]:
    """Return a task that crashes, by its DAG, run and id."""
    return lambda dag_id, run, task_id: crash_table.CrashedTask(airflow, table, dag_id, run, task_id)


@pytest.fixture(scope="session")
def postgres_or_skip(airflow: object) -> Callable[[], None]:
    """Call it where a test needs PostgreSQL; in CI there is no excuse."""

    def check() -> None:
        if airflow.postgres is None:
            (pytest.fail if os.environ.get("STEPOP_CI") else pytest.skip)(deployment.GET_POSTGRES)

    return check
