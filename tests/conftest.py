"""Fixtures and settings of all tests. Each test process has its own Airflow home, never that of the user."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("airflow_stepop.testing", "tests.support")

from tests.support.buckets import BucketServer  # noqa: E402 - its assertions are rewritten
from tests.support.gcs import Gcs, gcs_emulator  # noqa: E402 - its assertions are rewritten
from tests.support.needs import needs, needs_cluster  # noqa: E402 - its assertions are rewritten
from tests.support.s3 import S3Server, started  # noqa: E402 - its assertions are rewritten

pytest_plugins = [
    "tests.support.file_scheduling",
    "tests.support.journal_plugin",
    "tests.support.leftovers",
    "tests.support.long_tests",
]

HOME = tempfile.mkdtemp(prefix="stepop-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ["AIRFLOW_HOME"] = HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

# On a busy machine hypothesis draws examples slowly
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
settings.load_profile("busy")

# The servers of the tests are on this host
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

# A shell makes its background processes ignore SIGINT, and their children inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases of the bad input corpus ran. The reports of all xdist workers are counted."""
    counts = {
        outcome: sum("corpus" in report.keywords and report.when == "call" for report in reports)
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed")
    }
    if any(counts.values()):
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"bad input corpus: {told}")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Start the server that ``STEPOP_S3SERVER`` names, if it is not up."""
    command = needs(
        os.environ.get("STEPOP_S3SERVER"),
        "an S3 server: set STEPOP_S3SERVER=scripts/s3server, or to another program that starts one "
        "when it is called with 'up' and prints what scripts/s3server prints",
    )
    server = started(command)
    name = f"AIRFLOW_CONN_{server.conn_id.upper()}"
    os.environ[name] = server.connection()
    yield server
    del os.environ[name]


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Gcs]:
    """An emulator of Cloud Storage in this process. Tests that change its world start one of their own."""
    with gcs_emulator() as server:
        name = f"AIRFLOW_CONN_{server.conn_id.upper()}"
        os.environ[name] = server.connection()
        yield server
        del os.environ[name]


@pytest.fixture(params=["s3", "gs"])
def bucket_server(request: pytest.FixtureRequest) -> BucketServer:
    """A server of each kind of bucket."""
    server: BucketServer = request.getfixturevalue("s3_server" if request.param == "s3" else "gcs_server")
    return server


@pytest.fixture(scope="session")
def s3_for_pods(s3_server: S3Server) -> Iterator[S3Server]:
    """The same server, with the address that pods use."""
    endpoint = needs(
        os.environ.get("STEPOP_S3_FOR_PODS"),
        "an S3 server that pods reach: set STEPOP_S3_FOR_PODS to its address there",
    )
    server = replace(s3_server, endpoint=endpoint, conn_id="stepop_tests_s3_for_pods")
    name = f"AIRFLOW_CONN_{server.conn_id.upper()}"
    os.environ[name] = server.connection()
    yield server
    del os.environ[name]


@pytest.fixture(scope="session")
def kubernetes_namespace() -> Iterator[str]:
    """A new namespace on the cluster of ``KUBECONFIG``. The connection ``kubernetes_default`` leads to it."""
    needs_cluster()
    from tests.support.cluster import namespace

    with namespace() as name:
        yield name
