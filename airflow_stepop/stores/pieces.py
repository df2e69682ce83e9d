"""The bytes of a value, wherever its pieces lie in the stores. Called by the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from airflow_stepop.job import Buffer, ObjectRange
from airflow_stepop.runner.entries import SegmentError
from airflow_stepop.runner.hashing import BackgroundSha256, ReadBuffer
from airflow_stepop.runner.values import check
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.configured import locate


def ranges_of(segment: Mapping[str, Any], base_uri: str) -> list[ObjectRange]:
    """Return where the bytes of an entry's segment lie; none for one that carries them."""
    if "pieces" in segment:
        return [
            ObjectRange(f"{base_uri}/{piece['name']}", piece["size"], piece["offset"])
            for piece in segment["pieces"]
        ]
    return [ObjectRange(f"{base_uri}/{segment['name']}", segment["size"])] if "name" in segment else []


def read_ranges(
    ranges: Sequence[ObjectRange], segment: Mapping[str, Any], host: str = "", codec: str = ""
) -> Buffer:
    """Return the checked bytes of a segment, wherever its ranges are; they are hashed as they arrive.

    :param codec: of the value that they are
    :raises SegmentError: they are not those that were recorded
    :raises StoreError: they cannot be read, or lie outside the configured stores
    """
    found_at = [(*locate(one.uri, host), one) for one in ranges]
    size, at = segment["size"], sum(one.size for one in ranges)
    if at != size:
        raise SegmentError(
            f"the value at {ranges[0].uri} has {at} bytes and not the {size} that were recorded"
        )
    groups = [
        (store, [PathRange(path, one.size, one.offset) for _, path, one in group])
        for store, group in groupby(found_at, key=lambda found: found[0])
    ]
    for store, path_ranges in groups:
        store.check_sizes(path_ranges)
    data, at = ReadBuffer(size, codec), 0
    with BackgroundSha256(size) as found:
        for store, path_ranges in groups:
            end = at + sum(one.size for one in path_ranges)
            found.update_all(store.fill(path_ranges, data.view[at:end]))
            at = end
    check(f"the value at {ranges[0].uri}", dict(segment), at, found.hexdigest())
    return data.whole()
