"""A real S3 server, for tests and benchmarks."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class S3Server:
    """A real S3 server with a bucket, and the keys for it."""

    endpoint: str
    key: str
    secret: str
    bucket: str = "steps"
    conn_id: str = "stepop_tests_s3"
    signature: str = "X-Amz-"

    def connection(self, extra: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return an Airflow connection to it, as the value of an environment variable."""
        own = {"region_name": "us-east-1", "endpoint_url": self.endpoint}
        fields = {"conn_type": "aws", "login": self.key, "password": self.secret, **changes}
        return json.dumps({**fields, "extra": {**own, **(extra or {})}})

    def through(self, url: str) -> dict[str, Any]:
        """Return the extra of a connection that leads to the server by another address."""
        return {"endpoint_url": url}

    def new_address(self) -> str:
        """Return the address of a store that nobody has used yet."""
        return f"s3://{self.conn_id}@{self.bucket}/stepop-tests/{uuid.uuid4().hex}"


def started(command: str) -> S3Server:
    """Start the server if it is not up.

    :param command: a program that starts the server and prints the variables of its clients as shell exports
    """
    with open(os.path.join(tempfile.gettempdir(), "stepop-tests-s3.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([command, "up"], capture_output=True, text=True, check=True, timeout=600)
    words = shlex.split(done.stdout.replace("export", " "))
    found = dict(word.split("=", 1) for word in words)
    return S3Server(found["AWS_ENDPOINT_URL_S3"], found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])
