"""Addresses in a store that are signed for as long as one step may need them: who has one needs no key."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_stepop.job import StepSpec

SIGNATURE_MAX_S = 7 * 86400.0
MARGIN_S = 3600.0  # for reading at the start and writing at the end, and for clocks that differ
# how long a job may wait for its start, where nothing else limits it and the credentials last
START_ALLOWANCE_S = 86400.0

log = logging.getLogger(__name__)


class Signer:
    """Signs for as long as one step may need it."""

    def __init__(self, spec: StepSpec) -> None:
        self.spec = spec
        self.is_used = False
        self._until: dict[str, float] = {}

    def writable(self, folder_uri: str, names: Sequence[str]) -> Sequence[str]:
        """Return for each name an address to which the runner can write it."""
        store, folder = locate(folder_uri)
        if not isinstance(store, BucketStore):
            raise StepConfigError(f"{store} is no bucket: nothing can be signed there")
        self.is_used = True
        return store.sign("PUT", [f"{folder}/{name}" for name in names], self.until(store))

    def readable(self, uris: Sequence[str]) -> dict[str, str]:
        """Return for each URI a path or an address from which the runner can read it."""
        found: dict[str, str] = {}
        wanted: dict[BucketStore, dict[str, str]] = {}
        for uri in uris:
            store, path = locate(uri)
            if isinstance(store, FolderStore):
                found[uri] = str(store.folder / path)
            elif isinstance(store, BucketStore):
                wanted.setdefault(store, {})[uri] = path
        for store, paths in wanted.items():
            self.is_used = True
            urls = store.sign("GET", list(paths.values()), self.until(store))
            found.update(zip(paths, urls, strict=True))
        return found

    def until(self, store: BucketStore) -> float:
        """Return the end of the signatures for ``store``.

        :raises StepConfigError: the step may need them longer
        """
        if store.url not in self._until:
            self._until[store.url] = self._find_end(store)
        return self._until[store.url]

    def _find_end(self, store: BucketStore) -> float:
        spec, now = self.spec, time.time()
        start_s = spec.start_timeout_s or 0.0
        limits = f"timeout {_length(spec.timeout_s)}, start_timeout {_length(start_s)}, and an hour"
        needed = now + spec.timeout_s + start_s + MARGIN_S
        longest_s = SIGNATURE_MAX_S - start_s - MARGIN_S
        if needed > now + SIGNATURE_MAX_S:
            raise StepConfigError(
                f"this step may need its addresses in {store} for more than 7 days ({limits}), the longest "
                f"that they can be signed for. Lower timeout to {_length(longest_s)}"
            )
        end = store.signature_end(needed)
        if end is None:
            log.warning(
                "The credentials of %s are a session token of unknown end. If they end before the step does, "
                "the step cannot write its result",
                store,
            )
            end = math.inf
        if end < needed:
            raise StepConfigError(
                f"the credentials of {store} end at {_time(end)}, and the addresses that they sign end with "
                f"them; this step may need its own until {_time(needed)} ({limits}). Lower timeout, give the "
                "connection keys that do not end, or a longer DurationSeconds in its assume_role_kwargs"
            )
        allowance_s = START_ALLOWANCE_S if spec.start_timeout_s is None else 0.0
        return min(needed + allowance_s, end, now + SIGNATURE_MAX_S)


def _length(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
