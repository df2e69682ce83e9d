"""The output of a container goes to CloudWatch Logs, with the permissions of the role.

Group ``/aws/sagemaker/TrainingJobs``, stream ``JOB/algo-1-EPOCH``; each attempt has a stream of its own.
Lines come in batches and have the time at which they were printed. They may hold NUL bytes. Without the
permission nothing is written, and the job goes on.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from tests.emulators.sagemaker.iam import Role
from tests.emulators.sagemaker.jobs import Job

GROUP = "/aws/sagemaker/TrainingJobs"
LONGEST_EVENT = 60_000  # characters: below 256 KiB whatever they are
MOST_EVENTS, MOST_BYTES = 5_000, 900_000  # of one call: below the limits of the service


class CloudWatch:
    """The log service of the account, in each region."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def client(self, region: str) -> Any:
        import boto3
        from botocore.config import Config

        with self._lock:
            if region not in self._clients:
                client = boto3.client(
                    "logs",
                    endpoint_url=self.endpoint,
                    region_name=region,
                    aws_access_key_id="service",
                    aws_secret_access_key="service",
                    config=Config(max_pool_connections=50),
                )
                with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
                    client.create_log_group(logGroupName=GROUP)
                self._clients[region] = client
            return self._clients[region]


class LogStream:
    """Reads the output of one container until its end, and sends it."""

    def __init__(self, logs: CloudWatch | None, job: Job, role: Role, output: IO[bytes]) -> None:
        self._job, self._output = job, output
        self.name = new_stream_name(job)
        resource = f"arn:aws:logs:{job.region}:{job.settings.account}:log-group:{GROUP}"
        allowed = all(
            role.may(action, f"{resource}:log-stream:{self.name}")
            for action in ("logs:CreateLogStream", "logs:PutLogEvents")
        )
        self._client = logs.client(job.region) if logs and allowed else None
        self._lines: list[tuple[int, str]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._sender = threading.Thread(target=self._send, daemon=True)

    def start(self) -> None:
        if self._client:
            names = [f"{self._job.name}/data-log"] if self._job.settings.data_log else []
            for name in [*names, self.name]:
                self._create(name)
        self._reader.start()
        self._sender.start()

    def _create(self, name: str) -> None:
        assert self._client
        try:
            self._client.create_log_stream(logGroupName=GROUP, logStreamName=name)
        except self._client.exceptions.ResourceAlreadyExistsException:
            return  # a second attempt has no second data-log
        if name.endswith("/data-log"):
            event = {"timestamp": int(time.time() * 1000), "message": "data"}
            self._client.put_log_events(logGroupName=GROUP, logStreamName=name, logEvents=[event])

    def finish(self) -> None:
        """Wait for the last line, and unless lines are to come late, for its arrival."""
        self._reader.join()
        self._ended.set()
        settings = self._job.settings
        if not settings.late_logs_hold:
            self._sender.join()

    def _read(self) -> None:
        for line in self._output:
            text = line.rstrip(b"\r\n").decode("utf-8", "replace")
            at = int(self._job.now() * 1000)
            self._job.note_metrics(text, at / 1000)
            # An event has at least one character, so that an empty line is none
            parts = [text[first : first + LONGEST_EVENT] for first in range(0, len(text), LONGEST_EVENT)]
            with self._lock:
                self._lines += [(at, part) for part in parts]
        self._output.close()

    def _send(self) -> None:
        over = False
        while not over:
            settings = self._job.settings
            over = self._ended.wait(settings.log_batch_s)
            while settings.late_logs_hold and not self._job.vanished:
                time.sleep(0.02)
            with self._lock:
                batch, self._lines = self._lines, []
            for part in batches(batch):
                self._put(part)

    def _put(self, batch: list[tuple[int, str]]) -> None:
        if not self._client:
            return
        events = [{"timestamp": at, "message": text} for at, text in batch]
        try:
            self._client.put_log_events(logGroupName=GROUP, logStreamName=self.name, logEvents=events)
        except Exception as error:
            print(f"{self.name}: {len(batch)} log lines are lost: {error!r}", file=sys.stderr)


def batches(lines: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Divide lines into what one call may have."""
    part: list[tuple[int, str]] = []
    size = 0
    for line in lines:
        length = len(line[1].encode()) + 26
        if part and (len(part) >= MOST_EVENTS or size + length > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += length
    if part:
        yield part


def new_stream_name(job: Job) -> str:
    """Return the name of a stream that the job does not have yet."""
    epoch = int(job.now())
    while (name := f"{job.name}/algo-1-{epoch}") in job.streams:
        epoch += 1
    with job.changed:
        job.streams.append(name)
    return name
