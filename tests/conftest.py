"""Every test process has an Airflow home of its own: nothing is read from, or left in, the user's."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.register_assert_rewrite("airflow_stepop.testing")

HOME = tempfile.mkdtemp(prefix="stepop-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ["AIRFLOW_HOME"] = HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

# A shell starts what runs in its background without Ctrl-C, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases of the bad input corpus ran; reports know it in every process of xdist."""
    counts = {
        outcome: sum("corpus" in report.keywords and report.when == "call" for report in reports)
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed")
    }
    if any(counts.values()):
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"bad input corpus: {told}")


@dataclass(frozen=True)
class S3Server:
    """A real S3 server with a bucket, and the keys for it."""

    endpoint: str
    key: str
    secret: str
    bucket: str = "steps"
    conn_id: str = "stepop_tests_s3"

    def connection(self, extra: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return an Airflow connection to it, as the value of an environment variable."""
        own = {"region_name": "us-east-1", "endpoint_url": self.endpoint}
        fields = {"conn_type": "aws", "login": self.key, "password": self.secret, **changes}
        return json.dumps({**fields, "extra": {**own, **(extra or {})}})

    def new_address(self) -> str:
        """Return the address of a store that nobody has used yet."""
        return f"s3://{self.conn_id}@{self.bucket}/stepop-tests/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Start the server that ``STEPOP_S3SERVER`` names, if it is not up."""
    command = os.environ.get("STEPOP_S3SERVER")
    if not command:
        (pytest.fail if os.environ.get("STEPOP_CI") else pytest.skip)(
            "needs an S3 server: set STEPOP_S3SERVER=scripts/s3server, or to another program that starts one "
            "when it is called with 'up' and prints what scripts/s3server prints"
        )
    with open(os.path.join(tempfile.gettempdir(), "stepop-tests-s3.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([command, "up"], capture_output=True, text=True, check=True, timeout=60)
    words = shlex.split(done.stdout.replace("export", " "))
    found = dict(word.split("=", 1) for word in words)
    server = S3Server(
        found["AWS_ENDPOINT_URL_S3"], found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]
    )
    name = f"AIRFLOW_CONN_{server.conn_id.upper()}"
    os.environ[name] = server.connection()
    yield server
    del os.environ[name]
