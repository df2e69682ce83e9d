"""A statsd server that remembers the metrics that it received. It reads the format that has tags."""

from __future__ import annotations

import itertools
import socket
import threading
from dataclasses import dataclass

from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Metric:
    """One line: ``stepop.finished,backend=local,state=success:1|c``."""

    name: str
    tags: dict[str, str]
    value: float
    kind: str

    @classmethod
    def parse(cls, line: str) -> Metric:
        head, _, tail = line.rpartition(":")
        name, *tags = head.split(",")
        value, kind = tail.split("|")[:2]
        return cls(name.removeprefix("airflow."), dict(tag.split("=", 1) for tag in tags), float(value), kind)


class StatsdServer:
    """Listens on a port of this host. The variables ``env`` make Airflow send its metrics there."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._lines: list[str] = []
        self._marks = itertools.count()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def env(self) -> dict[str, str]:
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            self._lines += data.decode().splitlines()

    def metrics(self, **tags: str) -> list[Metric]:
        """Return this project's metrics that have these tags, in the order of their arrival."""
        self._catch_up()
        found = [Metric.parse(line) for line in list(self._lines) if "stepop." in line]
        return [metric for metric in found if tags.items() <= metric.tags.items()]

    def _catch_up(self) -> None:
        """Wait until the server has read all metrics that were sent before this call.

        The datagrams of one host wait in one queue. This method sends a mark and waits until it is read.
        """
        mark = f"mark-{next(self._marks)}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(mark.encode(), self._socket.getsockname())
        wait_until(lambda: mark in self._lines, "the statsd server to read what it was sent")

    def total(self, name: str, **tags: str) -> float:
        return sum(metric.value for metric in self.metrics(**tags) if metric.name == name)

    def close(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
