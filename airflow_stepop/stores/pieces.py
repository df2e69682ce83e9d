"""The bytes of a value, wherever its pieces lie in the stores. Called by the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from airflow_stepop.job import Buffer, Place
from airflow_stepop.runner.entries import SegmentError
from airflow_stepop.runner.hashing import Beside, Memory
from airflow_stepop.runner.values import check
from airflow_stepop.stores.base import Span
from airflow_stepop.stores.configured import locate


def places_of(segment: Mapping[str, Any], base_uri: str) -> list[Place]:
    """Return where the bytes of an entry's segment lie; none for one that carries them."""
    if "pieces" in segment:
        return [
            Place(f"{base_uri}/{piece['name']}", piece["size"], piece["offset"])
            for piece in segment["pieces"]
        ]
    return [Place(f"{base_uri}/{segment['name']}", segment["size"])] if "name" in segment else []


def read_places(
    places: Sequence[Place], segment: Mapping[str, Any], host: str = "", codec: str = ""
) -> Buffer:
    """Return the checked bytes of a segment, wherever its places are; they are hashed as they arrive.

    :param codec: of the value that they are
    :raises SegmentError: they are not those that were recorded
    :raises StoreError: they cannot be read, or lie outside the configured stores
    """
    found_at = [(*locate(place.uri, host), place) for place in places]
    size, at = segment["size"], sum(place.size for place in places)
    if at != size:
        raise SegmentError(
            f"the value at {places[0].uri} has {at} bytes and not the {size} that were recorded"
        )
    groups = [
        (store, [Span(path, place.size, place.offset) for _, path, place in group])
        for store, group in groupby(found_at, key=lambda one: one[0])
    ]
    for store, spans in groups:
        store.check_sizes(spans)
    data, at = Memory(size, codec), 0
    with Beside(size) as found:
        for store, spans in groups:
            end = at + sum(span.size for span in spans)
            found.update_all(store.fill(spans, data.view[at:end]))
            at = end
    check(f"the value at {places[0].uri}", dict(segment), at, found.hexdigest())
    return data.whole()
