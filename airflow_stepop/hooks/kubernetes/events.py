"""Reads warning events of Jobs without a pod and of pods that do not start. ``job_states.py`` calls it.

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
    from airflow_stepop.hooks.kubernetes.objects import Json

log = logging.getLogger(__name__)

FEW = 3  # up to this number, the events of objects are read one object at a time
PAUSE_S = 5.0  # between two reads, independent of the number of blocked objects
WANTED_S = 15.0  # an object stays in the reads this long after it was last asked for


@dataclass(frozen=True)
class WarningEvent:
    """Reason and message of a warning about an object, and how often it occurred."""

    reason: str
    message: str
    count: int = 1


class WarningEvents:
    """The warning events of one namespace, read at most once in :data:`PAUSE_S` seconds."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: Mapping[str, Sequence[WarningEvent]] = {}
        self._wanted: dict[str, float] = {}
        self._read_at = float("-inf")

    @property
    def may_be_new(self) -> bool:
        """Whether the next call of :meth:`of` reads from the cluster."""
        return time.monotonic() - self._read_at >= PAUSE_S

    def of(self, names: Collection[str]) -> Mapping[str, Sequence[WarningEvent]]:
        """Return events by the name of their object, read at most :data:`PAUSE_S` seconds ago.

        An error is only logged. The events then are those of the last successful read.
        """
        now = time.monotonic()
        recent = {name: at for name, at in self._wanted.items() if now - at < WANTED_S}
        self._wanted = recent | dict.fromkeys(names, now)
        if names and self.may_be_new:
            self._read_at = now
            try:
                self._found = self._read(self._wanted)
            except Exception as error:  # noqa: BLE001, RUF100 - a status needs no events
                log.info("The events of namespace %s cannot be read: %s", self._cluster.namespace, error)
        return self._found

    def now(self, name: str) -> Sequence[WarningEvent]:
        """Return the events of one object, read now. An error is only logged: there are none then."""
        try:
            return self._read([name]).get(name, ())
        except Exception as error:  # noqa: BLE001, RUF100 - a status needs no events
            log.info("The events of namespace %s cannot be read: %s", self._cluster.namespace, error)
            return ()

    def _read(self, names: Collection[str]) -> Mapping[str, Sequence[WarningEvent]]:
        selectors = ["type=Warning"]
        if len(names) <= FEW:
            selectors = [f"type=Warning,involvedObject.name={name}" for name in names]
        found: dict[str, list[WarningEvent]] = defaultdict(list)
        for selector in selectors:
            for event in sorted(self._cluster.list("events", fieldSelector=selector), key=_seen_at):
                count = int((event.get("series") or {}).get("count") or event.get("count") or 1)
                one = WarningEvent(event.get("reason", ""), event.get("message", ""), count)
                found[event["involvedObject"].get("name", "")].append(one)
        return found


def _seen_at(event: Json) -> str:
    """Return when an event last occurred; events of one server sort by it."""
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp")
    return str(last or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
