"""Reading a stored value, whose bytes may lie in several objects. Called by the results and the payload."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from airflow_stepop.job import Buffer, ObjectRange
from airflow_stepop.runner.entries import SegmentError
from airflow_stepop.runner.hashing import BackgroundSha256, ReadBuffer
from airflow_stepop.runner.values import check
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.runner.wire import Segment


def ranges_of(segment: Segment, base_uri: str) -> list[ObjectRange]:
    """Return the stored ranges of a segment, in order; empty if the segment carries its bytes itself.

    :param segment: one segment of a value entry, see ``runner/protocol.py``
    :param base_uri: the folder of the segment's objects
    """
    if "pieces" in segment:
        return [
            ObjectRange(f"{base_uri}/{piece['name']}", piece["size"], piece["offset"])
            for piece in segment["pieces"]
        ]
    return [ObjectRange(f"{base_uri}/{segment['name']}", segment["size"])] if "name" in segment else []


def read_ranges(
    ranges: Sequence[ObjectRange], segment: Segment, host: str = "", codec: str = "", conn_id: str = ""
) -> Buffer:
    """Return the bytes of a segment; size and SHA-256 are checked. The bytes are hashed while they arrive.

    :param segment: has the recorded size and SHA-256
    :param host: the host that wrote the segment, if that is in a folder
    :param codec: the codec of the value
    :param conn_id: the connection that names the store; empty: the settings do
    :raises SegmentError: the bytes are not the recorded ones
    :raises StoreError: the bytes cannot be read, or are outside the configured stores
    """
    found_at = [(*locate(one.uri, host, conn_id), one) for one in ranges]
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
    check(f"the value at {ranges[0].uri}", segment, at, found.hexdigest())
    return data.whole()
