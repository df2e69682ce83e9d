"""How the bytes of a payload and of its outcome travel between the store and a runner without credentials.

The runner has the standard library only. It reads parts from, and writes the segments of its outcome to,
pre-signed addresses: who has one needs no key. A backend calls :func:`input_files` and puts what it returns
into the runner's input folder.
"""

from __future__ import annotations

import gzip
import hmac
import json
import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.host import airflow_folder
from airflow_stepop.core.signing_key import signing_key
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.runner.protocol import CHECKPOINT, LOCATIONS, MANIFEST, OUTCOME, RUNNER, SECRETS, UPLOADS
from airflow_stepop.stores.bucket import MIB, BucketStore
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.folder import FolderStore, folder_of
from airflow_stepop.zipapp import runner_zipapp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_stepop.job import Buffer, Payload, Place, StepSpec

# A piece of an outcome is one signed PUT, which S3 limits to 5 GiB. How many will be needed is not known when
# they are signed; an unused one costs 60 bytes of the job's input.
PIECES = 64
PIECE_BYTES = (8 * MIB, 5 << 30)

SIGNATURE_MAX_S = 7 * 86400.0
MARGIN_S = 3600.0  # for reading at the start and writing at the end, and for clocks that differ
# how long a job may wait for its start, where nothing else limits it and the credentials last
START_ALLOWANCE_S = 86400.0

log = logging.getLogger(__name__)


def input_files(payload: Payload, spec: StepSpec) -> dict[str, Sequence[Buffer]]:
    """Return everything that the runner's input folder must hold: file name -> bytes, in a row.

    ``secrets.json`` and ``checkpoint.json`` are secrets, and ``locations.json`` and ``uploads.json`` are when
    the store is a bucket: they belong where only the step can read them. A folder of this host is
    named in them as it is: a job that runs elsewhere has had its payload through :func:`bring`.

    :raises StepConfigError: the step may run longer than a signature can last
    """
    files = {name: part.buffers for name, part in payload.parts.items() if part.buffers is not None}
    signer = _Signer(spec)
    locations = _locations(payload, signer)
    if locations:
        files[LOCATIONS] = [_to_json(locations, signer.is_used)]
    if spec.result_uri and folder_of(spec.result_uri) is None:
        uploads = _uploads(spec, signer)
        if "outcome" in payload.features:
            (uploads["outcome"],) = signer.writable(spec.result_uri, [OUTCOME])
        files[UPLOADS] = [_to_json(uploads, is_secret=True)]
    features = set(payload.features)
    if spec.checkpoint_uri and folder_of(spec.checkpoint_uri) is None:
        files[CHECKPOINT] = [_to_json(_checkpoint(spec, signer), is_secret=True)]
        features.add("snapshots")
    if payload.secrets:
        files[SECRETS] = [payload.secrets_file]
    needed = frozenset(features | ({"network"} if signer.is_used else set()))
    runner = runner_zipapp(needed, airflow_folder("runner"))
    return {**files, MANIFEST: [payload.manifest], RUNNER: [runner]}


def _locations(payload: Payload, signer: _Signer) -> dict[str, Any]:
    named = {name: part.places for name, part in payload.parts.items() if part.places}
    addresses = signer.readable([place.uri for places in named.values() for place in places])

    def location(places: Sequence[Place]) -> Any:
        if len(places) == 1 and places[0].offset is None:
            return addresses[places[0].uri]
        return [[addresses[place.uri], place.offset or 0, place.size] for place in places]

    return {name: location(places) for name, places in named.items()}


def _uploads(spec: StepSpec, signer: _Signer) -> dict[str, Any]:
    names = [f"{index:02}.bin" for index in range(PIECES)]
    urls = signer.writable(spec.result_uri, names)
    least, most = PIECE_BYTES
    return {
        "urls": dict(zip(names, urls, strict=True)),
        "headers": {},
        "least_bytes": least,
        "most_bytes": most,
    }


def _checkpoint(spec: StepSpec, signer: _Signer) -> dict[str, Any]:
    """Return where the runner saves snapshots, under a name of this job's own, and where it looks for one.

    It looks there first, for a service may start a job twice, and then at the newest of earlier jobs.
    """
    own = f"{spec.checkpoint_uri}/{spec.name}.tar"
    store, folder = locate(spec.checkpoint_uri)
    (put,) = signer.writable(spec.checkpoint_uri, [f"{spec.name}.tar"])
    found = max(store.objects(folder), key=lambda one: (one.modified_at, one.path), default=None)
    uris = list(dict.fromkeys([own, *([store.uri(found.path)] if found else [])]))
    urls = signer.readable(uris)
    return {
        "get": [{"url": urls[uri], "uri": uri} for uri in uris],
        "put": put,
        "headers": {},
        "key": hmac.new(signing_key(), f"checkpoint\n{folder}".encode(), "sha256").hexdigest(),
        "most_bytes": PIECE_BYTES[1],
    }


def _to_json(table: Mapping[str, Any], is_secret: bool) -> bytes:
    data = json.dumps(table, separators=(",", ":")).encode()
    return gzip.compress(data, mtime=0) if is_secret else data


class _Signer:
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
