"""One real Airflow and one real cluster for the fault matrix. Only ``make faults`` runs the long tests."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.chaos.faults.census import Census
from tests.chaos.faults.fault_table import FaultRun, FaultTable
from tests.chaos.faults.parts import Parts
from tests.chaos.faults.proxy import Proxy
from tests.support import cluster, deployment
from tests.support.needs import needs, needs_cluster, needs_parts_of_cluster

HERE = Path(__file__).parent
IS_FULL = bool(os.environ.get("STEPOP_FAULTS_FULL"))
NAMESPACES = ("default", "doomed", "full_pods", "full_jobs", "token")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-fault-table", action="store_true", help="write what was measured into the page")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600 if IS_FULL else 900))


@pytest.fixture(scope="session")
def admin() -> object:
    """The official client, with all permissions."""
    needs_cluster()
    from kubernetes import client, config

    config.load_kube_config()
    return SimpleNamespace(
        core=client.CoreV1Api(),
        scheduling=client.SchedulingV1Api(),
        leases=client.CoordinationV1Api(),
        client=client.ApiClient(),
    )


@pytest.fixture(scope="session")
def parts() -> Parts:
    return Parts(needs_parts_of_cluster())


@pytest.fixture(scope="session")
def namespaces(admin) -> Iterator[dict[str, str]]:
    found = {}
    for purpose in NAMESPACES:
        name = f"stepop-faults-{purpose.replace('_', '-')}-{uuid.uuid4().hex[:6]}"
        admin.core.create_namespace({"metadata": {"name": name}})
        found[purpose] = name
    yield found
    there = {one.metadata.name for one in admin.core.list_namespace().items}
    for name in there & set(found.values()):
        admin.core.delete_namespace(name)


@pytest.fixture(scope="session")
def configs(namespaces) -> dict[str, dict]:
    return {purpose: cluster.kubeconfig(name) for purpose, name in namespaces.items()}


@pytest.fixture(scope="session")
def proxy(configs, tmp_path_factory) -> Iterator[Proxy]:
    (server,) = configs["default"]["clusters"]
    authorities = tmp_path_factory.mktemp("proxy") / "ca.crt"
    authorities.write_bytes(base64.b64decode(server["cluster"]["certificate-authority-data"]))
    proxy = Proxy(server["cluster"]["server"], str(authorities))
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def token_config(configs, tmp_path_factory) -> Path:
    """The kubeconfig file that the connection ``kubernetes_token`` names."""
    path = tmp_path_factory.mktemp("token") / "config"
    path.write_text(json.dumps(configs["token"]))
    return path


@pytest.fixture(scope="session")
def connections(namespaces, configs, proxy, token_config) -> dict[str, str]:
    behind = {**configs["default"], "clusters": [{"name": "c", "cluster": {"server": proxy.url}}]}
    extras = {
        **{purpose: {"kube_config": json.dumps(config)} for purpose, config in configs.items()},
        "proxy": {"kube_config": json.dumps(behind)},
        "token": {"kube_config_path": str(token_config)},
    }
    return {
        f"AIRFLOW_CONN_KUBERNETES_{purpose.upper()}": json.dumps(
            {
                "conn_type": "kubernetes",
                "extra": {**extra, "namespace": namespaces.get(purpose, namespaces["default"])},
            }
        )
        for purpose, extra in extras.items()
    }


@pytest.fixture(scope="session")
def airflow(tmp_path_factory, connections, admin) -> Iterator[deployment.Deployment]:
    postgres = needs(deployment.Postgres.if_any(), deployment.A_POSTGRES)
    env = {**connections, "AIRFLOW__STEPOP__CAPACITY_PAUSE": "10"}
    env["STEPOP_TEST_NODE"] = cluster.only_node(admin.core)
    if IS_FULL:
        env["STEPOP_FAULTS_FULL"] = "1"
        # With more workers the scheduler gets too little CPU time, and takes running tasks for failed ones
        env["AIRFLOW__CORE__PARALLELISM"] = "6"
    found = deployment.Deployment(
        tmp_path_factory.mktemp("faults"),
        HERE / "dags",
        env,
        postgres=postgres,
        # In the long form hundreds of steps share few workers, and a node may be away for minutes
        patience_s=1800.0 if IS_FULL else deployment.RUN_S,
    )
    with found.running():
        yield found


@pytest.fixture(scope="session")
def census(admin) -> Iterator[Census]:
    census = Census(admin.client)
    yield census
    census.close()


@pytest.fixture(scope="session")
def table() -> FaultTable:
    return FaultTable()


@pytest.fixture(scope="session")
def begin(airflow, census, table):
    """Return a function that starts the DAG run of a fault."""
    return lambda name: FaultRun(airflow, census, table, name)
