"""What the cluster warns of: events of jobs without a pod, and of pods that do not start.

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

FEW = 3  # so many objects are asked for one by one
PAUSE_S = 5.0  # between two questions, however many objects are stuck
WANTED_S = 15.0  # for so long an object that somebody has asked for is asked for together with others


@dataclass(frozen=True)
class Warned:
    """Something that went wrong with an object, and how often."""

    reason: str
    message: str
    count: int = 1


class Warnings:
    """The warnings of one namespace, asked for seldom."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: Mapping[str, Sequence[Warned]] = {}
        self._wanted: dict[str, float] = {}
        self._asked_at = float("-inf")

    @property
    def may_be_new(self) -> bool:
        """Whether the next question asks the cluster."""
        return time.monotonic() - self._asked_at >= PAUSE_S

    def of(self, names: Collection[str]) -> Mapping[str, Sequence[Warned]]:
        """Return the warnings of objects, as they were at most :data:`PAUSE_S` ago, if they can be had."""
        now = time.monotonic()
        recent = {name: at for name, at in self._wanted.items() if now - at < WANTED_S}
        self._wanted = recent | dict.fromkeys(names, now)
        if names and self.may_be_new:
            self._asked_at = now
            try:
                self._found = self._ask(self._wanted)
            except Exception as error:  # noqa: BLE001, RUF100 - they explain a state; without them it is one, too
                log.info("The warnings of namespace %s cannot be read: %s", self._cluster.namespace, error)
        return self._found

    def _ask(self, names: Collection[str]) -> Mapping[str, Sequence[Warned]]:
        selectors = ["type=Warning"]
        if len(names) <= FEW:
            selectors = [f"type=Warning,involvedObject.name={name}" for name in names]
        found: dict[str, list[Warned]] = defaultdict(list)
        for selector in selectors:
            for event in self._cluster.list("events", fieldSelector=selector):
                count = int((event.get("series") or {}).get("count") or event.get("count") or 1)
                warned = Warned(event.get("reason", ""), event.get("message", ""), count)
                found[event["involvedObject"].get("name", "")].append(warned)
        return found
