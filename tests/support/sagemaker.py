"""Starts the emulator of SageMaker and the log service beside it, and speaks to its control interface.

    with log_service() as logs_url, sagemaker(s3_server, logs_url, list_lag_s=0.5) as service:
        service.do("plan", job="train-*", pending=True, hold=["Pending"])  # they wait for capacity ...
        service.wait_for(name, "Pending")
        service.do("release", job="train-*", phase="Pending")              # ... until now
        service.do("fault", kind="throttle", operation="List*", seconds=3)
        assert service.log(name) == ["a line"]

``service.client("sagemaker", key="SOMEONE")`` is real boto3; ``service.connection()`` an Airflow
connection. All services but S3 are behind the emulator's address. Orders are in
``tests/emulators/sagemaker/control.py``, what can be set in ``settings.py`` and faults in ``faults.py``
beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.paths import ROOT
from tests.support.processes import ended
from tests.support.s3 import S3Server
from tests.support.waiting import wait_until

Json = dict[str, Any]
# moto's server, which ends with the process that started it: when its standard input ends
MOTO = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
from moto.server import main
main(sys.argv[1:])
"""


@dataclass
class SageMaker:
    """A running emulator. ``process`` may be killed by a test."""

    url: str
    logs_url: str
    s3: S3Server
    process: subprocess.Popen[str]
    role: str = "arn:aws:iam::123456789012:role/stepop-job"
    image: str = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
    group: str = "/aws/sagemaker/TrainingJobs"
    _clients: Json = field(default_factory=dict)

    def client(self, service: str, *, key: str = "tests", region: str = "us-east-1") -> Any:
        """Return a real boto3 client without retries. All services but S3 are behind the emulator."""
        import boto3
        from botocore.config import Config

        name = f"{service} {key} {region}"
        if name not in self._clients:
            endpoint = self.s3.endpoint if service == "s3" else self.url
            own = (self.s3.key, self.s3.secret) if service == "s3" else (key, "secret")
            self._clients[name] = boto3.client(
                service,
                endpoint_url=endpoint,
                region_name=region,
                aws_access_key_id=own[0],
                aws_secret_access_key=own[1],
                config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
            )
        return self._clients[name]

    def close_clients(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def do(self, order: str, **fields: Any) -> Json:
        """Send an order of ``tests/emulators/sagemaker/control.py``, and return the report after it."""
        data = json.dumps({"do": order, **fields}).encode()
        return self._asked(urllib.request.Request(f"{self.url}/_control", data=data))

    def deny(self, action: str, resource: str = "*") -> None:
        """Let the caller do everything but ``action``."""
        statements = [
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Action": action, "Resource": resource},
        ]
        arn = "arn:aws:iam::123456789012:user/airflow"
        self.do("default_identity", arn=arn, policies=[{"Statement": statements}])

    def report(self) -> Json:
        """Return what the emulator knows: ``jobs`` with pid and streams, and ``answers`` by operation."""
        return self._asked(urllib.request.Request(f"{self.url}/_control"))

    def _asked(self, request: urllib.request.Request) -> Json:
        try:
            with urllib.request.urlopen(request) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def connection(self, **extra: Any) -> str:
        """Return an Airflow connection whose services lead here, as the value of an environment variable."""
        here = ("sagemaker", "sts", "iam", "ecr", "service-quotas", "logs", "secretsmanager")
        endpoints = {name: {"endpoint_url": self.url} for name in here}
        endpoints["s3"] = {"endpoint_url": self.s3.endpoint}
        own = {"region_name": "us-east-1", "service_config": endpoints}
        fields = {"conn_type": "aws", "login": self.s3.key, "password": self.s3.secret}
        return json.dumps({**fields, "extra": {**own, **extra}})

    def wait_for(self, job: str, *statuses: str) -> Json:
        """Wait until a job has one of the statuses (or secondary statuses), and return its description."""
        client = self.client("sagemaker")
        found: Json = wait_until(
            lambda: client.describe_training_job(TrainingJobName=job),
            f"{job} to be {' or '.join(statuses)}",
            holds=lambda seen: {seen["TrainingJobStatus"], seen["SecondaryStatus"]} & set(statuses),
        )
        return found

    def log(self, job: str, attempt: int = 0) -> list[str]:
        """Return the lines of an attempt that have arrived."""
        streams = self.report()["jobs"][job]["streams"]
        client = self.client("logs")
        try:
            events = client.get_log_events(
                logGroupName=self.group, logStreamName=streams[attempt], startFromHead=True
            )
        except (IndexError, client.exceptions.ResourceNotFoundException):
            return []
        return [event["message"] for event in events["events"]]


@contextlib.contextmanager
def log_service() -> Iterator[str]:
    """Start moto's server, for CloudWatch Logs and STS, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", MOTO, "-H", "127.0.0.1", "-p", str(port)]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null) as process:
        try:
            wait_until(lambda: _answers(port), "moto's server to listen", explain=process.poll)
            yield url
        finally:
            process.kill()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def sagemaker(s3: S3Server, logs_url: str, **settings: Any) -> Iterator[SageMaker]:
    """Start the emulator as a process of its own. It ends with this process, however that ends.

    :param settings: fields of ``Settings`` in ``tests/emulators/sagemaker/settings.py``
    """
    command = [sys.executable, "-m", "tests.emulators.sagemaker_api", "--with-parent", "--logs", logs_url]
    command += ["--s3", s3.endpoint, "--s3-key", s3.key, "--s3-secret", s3.secret]
    command += ["--settings", json.dumps(settings)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True) as work,
        subprocess.Popen(
            [*command, "--work", work], cwd=ROOT, env=_environment(), stdin=pipe, stdout=pipe, text=True
        ) as process,
    ):
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the emulator did not start: {line!r}, see its standard error"
        service = SageMaker(line.split()[1], logs_url, s3, process)
        try:
            yield service
        finally:
            service.close_clients()
            process.terminate()
            ended(process)


def _environment() -> dict[str, str]:
    """Return the environment without settings of AWS that a user may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
