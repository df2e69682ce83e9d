"""Warning events of the cluster: of Jobs without a pod, and of pods that do not start.

https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster

log = logging.getLogger(__name__)

FEW = 3  # up to so many objects are read one by one
PAUSE_S = 5.0  # between two reads, however many objects are blocked
WANTED_S = 15.0  # an object that was asked for is read along with others for so long


@dataclass(frozen=True)
class WarningEvent:
    """What went wrong with an object, and how often."""

    reason: str
    message: str
    count: int = 1


class WarningEvents:
    """The warning events of one namespace, read at most every :data:`PAUSE_S`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: Mapping[str, Sequence[WarningEvent]] = {}
        self._wanted: dict[str, float] = {}
        self._read_at = float("-inf")

    @property
    def may_be_new(self) -> bool:
        """Whether the next call reads from the cluster."""
        return time.monotonic() - self._read_at >= PAUSE_S

    def of(self, names: Collection[str]) -> Mapping[str, Sequence[WarningEvent]]:
        """Return the events by the name of their object, at most :data:`PAUSE_S` old; an error is logged."""
        now = time.monotonic()
        recent = {name: at for name, at in self._wanted.items() if now - at < WANTED_S}
        self._wanted = recent | dict.fromkeys(names, now)
        if names and self.may_be_new:
            self._read_at = now
            try:
                self._found = self._read(self._wanted)
            except Exception as error:  # noqa: BLE001, RUF100 - they explain a state; without them it is one, too
                log.info("The events of namespace %s cannot be read: %s", self._cluster.namespace, error)
        return self._found

    def _read(self, names: Collection[str]) -> Mapping[str, Sequence[WarningEvent]]:
        selectors = ["type=Warning"]
        if len(names) <= FEW:
            selectors = [f"type=Warning,involvedObject.name={name}" for name in names]
        found: dict[str, list[WarningEvent]] = defaultdict(list)
        for selector in selectors:
            for event in self._cluster.list("events", fieldSelector=selector):
                count = int((event.get("series") or {}).get("count") or event.get("count") or 1)
                one = WarningEvent(event.get("reason", ""), event.get("message", ""), count)
                found[event["involvedObject"].get("name", "")].append(one)
        return found
