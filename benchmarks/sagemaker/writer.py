"""Prints lines into the logs of training jobs at a steady rate. ``logs.py`` starts it as a process.

Each job has one stream, and prints a line every ``every_s`` seconds. The text of a line is its number and the
time when the log service has it.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GROUP = "/aws/sagemaker/TrainingJobs"


class Writer:
    """Writes into the streams of jobs until it is told to end."""

    def __init__(self, url: str, jobs: Sequence[str], every_s: float) -> None:
        import boto3

        self._client: Any = boto3.client(
            "logs",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="service",
            aws_secret_access_key="service",
        )
        self._jobs, self._every_s = jobs, every_s
        self.written: Counter[str] = Counter()  # job -> number of its lines

    def create(self) -> None:
        self._client.create_log_group(logGroupName=GROUP)
        for job in self._jobs:
            self._client.create_log_stream(logGroupName=GROUP, logStreamName=f"{job}/algo-1-1")

    def run(self, over: threading.Event) -> None:
        """Write one line after the other. If the log service is slow, the lines come later."""
        now = time.monotonic()
        due = [(now + random.uniform(0, self._every_s), job) for job in self._jobs]
        heapq.heapify(due)
        while not over.wait(max(0.0, due[0][0] - time.monotonic())):
            at, job = due[0]
            heapq.heapreplace(due, (at + self._every_s, job))
            self._write(job)

    def _write(self, job: str) -> None:
        now = time.time()
        event = {"timestamp": int(now * 1000), "message": f"{self.written[job]} {now:.6f}"}
        self._client.put_log_events(logGroupName=GROUP, logStreamName=f"{job}/algo-1-1", logEvents=[event])
        self.written[job] += 1


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    writer, over = Writer(given["url"], given["jobs"], given["every_s"]), threading.Event()
    writer.create()
    print(json.dumps({"created": len(given["jobs"])}), flush=True)
    sys.stdin.readline()
    thread = threading.Thread(target=writer.run, args=[over])
    thread.start()
    sys.stdin.readline()
    over.set()
    thread.join()
    print(json.dumps({"written": writer.written}), flush=True)


if __name__ == "__main__":
    main()
