"""Signs addresses in a store for as long as one step may need them. ``input_files`` calls this module.

A job can read or write a signed address without credentials.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.folder import path_in_job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_stepop.job import StepSpec

SIGNATURE_MAX_S = 7 * 86400.0
MARGIN_S = 3600.0  # for reading the input, writing the outcome, and clock differences
# Time that a job may wait for its start, if the task sets no start_timeout and the credentials last that long
START_ALLOWANCE_S = 86400.0

log = logging.getLogger(__name__)


class Signer:
    """Signs addresses for one step. A signature is valid for as long as the step may need the address.

    An address to write is needed until the step's deadline. An address to read is needed until the step
    starts, if the job reads its input only once.

    :param mounts: see :func:`~airflow_stepop.stores.folder.path_in_job`
    :param reads_once: the job reads its input at its start and never again. ``False`` for a service that may
        start the job again, in another machine
    :ivar is_used: whether this signer has signed any address
    """

    def __init__(self, spec: StepSpec, mounts: Mapping[str, str], *, reads_once: bool = False) -> None:
        self.spec = spec
        self.mounts = mounts
        self.reads_once = reads_once
        self.is_used = False
        self._until: dict[tuple[str, float], float] = {}

    def writable(self, folder_uri: str, names: Sequence[str]) -> Sequence[str]:
        """Return one signed address per name, to which the runner can write an object of that name.

        :raises StepConfigError: the store is a folder, or the step may need the addresses longer than a
            signature can be valid
        """
        store, folder = in_bucket(folder_uri)
        self.is_used = True
        return store.sign(
            "PUT", [f"{folder}/{name}" for name in names], self._end(store, self.spec.timeout_s)
        )

    def readable(self, uris: Sequence[str]) -> dict[str, str]:
        """Return for each URI an address that the runner can read: a path, or a signed address in a bucket.

        :raises StepConfigError: the step may need the addresses longer than a signature can be valid
        """
        found: dict[str, str] = {}
        wanted: dict[BucketStore, dict[str, str]] = {}
        for uri in uris:
            if (local := path_in_job(uri, self.mounts)) is not None:
                locate(uri)  # refuses what is outside of the configured stores
                found[uri] = local
            else:
                store, path = in_bucket(uri)
                wanted.setdefault(store, {})[uri] = path
        run_s = 0.0 if self.reads_once else self.spec.timeout_s
        for store, paths in wanted.items():
            self.is_used = True
            urls = store.sign("GET", list(paths.values()), self._end(store, run_s))
            found.update(zip(paths, urls, strict=True))
        return found

    def _end(self, store: BucketStore, run_s: float) -> float:
        """Return when the signatures for ``store`` expire, in seconds since the epoch.

        :param run_s: for how many seconds after its start the step may need the addresses
        :raises StepConfigError: the step may need the addresses longer than a signature can be valid
        """
        key = store.url, run_s
        if key not in self._until:
            self._until[key] = self._find_end(store, run_s)
        return self._until[key]

    def _find_end(self, store: BucketStore, run_s: float) -> float:
        spec, now = self.spec, time.time()
        start_s = spec.start_timeout_s or 0.0
        timeout = f"timeout {_length(run_s)}, " if run_s else ""
        limits = f"{timeout}start_timeout {_length(start_s)}, and an hour"
        needed = now + run_s + start_s + MARGIN_S
        if needed > now + SIGNATURE_MAX_S:
            option, other_s = ("timeout", start_s) if run_s else ("start_timeout", 0.0)
            raise StepConfigError(
                f"this step may need its addresses in {store} for more than 7 days ({limits}), but a "
                "signature is valid for at most 7 days. "
                f"Lower {option} to {_length(SIGNATURE_MAX_S - other_s - MARGIN_S)}"
            )
        end = store.signature_end(needed)
        if end is None:
            log.warning(
                "The credentials of %s are a session token with an unknown expiry time. If the token expires "
                "before the step %s",
                store,
                "ends, the step cannot write its result"
                if run_s
                else "starts, the step cannot read its input",
            )
            end = math.inf
        if end < needed:
            raise StepConfigError(
                f"the credentials of {store} expire at {_time(end)}, and so do the addresses signed with "
                f"them; this step may need its addresses until {_time(needed)} ({limits}). "
                f"Lower {'timeout' if run_s else 'start_timeout'}, {store.lasting}"
            )
        allowance_s = START_ALLOWANCE_S if spec.start_timeout_s is None else 0.0
        return min(needed + allowance_s, end, now + SIGNATURE_MAX_S)


def in_bucket(uri: str) -> tuple[BucketStore, str]:
    """Return the bucket that contains ``uri``, and the path in the bucket.

    :raises StepConfigError: the store is a folder
    """
    store, path = locate(uri)
    if not isinstance(store, BucketStore):
        raise StepConfigError(f"{store} is not a bucket, so addresses in it cannot be signed")
    return store, path


def _length(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
