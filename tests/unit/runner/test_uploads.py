"""Reading and writing pre-signed addresses with every Python that runs steps, against a real server."""

from __future__ import annotations

import gzip
import hashlib
import json
import time

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.configured import open_store

MIB = 1 << 20


@pytest.fixture
def bucket(bucket_server):
    store = open_store(bucket_server.new_address())
    yield store
    store.delete_folder("")


def test_there_and_back(folder, bucket, any_python):
    """An argument in several ranges, a result in several pieces."""
    data = bytes(range(256)) * (20 * MIB // 256)
    for name, part in (("a", data[: 3 * MIB]), ("b", data[3 * MIB :] + b"another value")):
        bucket.put_new(name, part)
    folder.reference("def f(data): return data[::-1]\n", "f", data)
    (segment,) = folder.manifest["args"][0]["segments"]
    (folder.path / "in" / segment["name"]).unlink()
    names = [f"{number}.bin" for number in range(5)]
    until = time.time() + 600
    first, second = bucket.sign("GET", ["a", "b"], until)
    ranges = [[first, 0, 3 * MIB], [second, 0, 17 * MIB]]
    uploads = {
        "urls": dict(zip(names, bucket.sign("PUT", names, until), strict=True)),
        "headers": {},
        "least_bytes": MIB,
        "most_bytes": 5 * MIB,
    }
    for name, table in ((protocol.LOCATIONS, {segment["name"]: ranges}), (protocol.UPLOADS, uploads)):
        (folder.path / "in" / name).write_bytes(gzip.compress(json.dumps(table).encode()))
    done = folder.run(any_python)
    assert done.outcome["status"] == "success", done.outcome["failure"]
    (segment,) = done.outcome["value"]["segments"]
    assert [piece["name"] for piece in segment["pieces"]] == names
    path_ranges = [PathRange(piece["name"], piece["size"], piece["offset"]) for piece in segment["pieces"]]
    found = bytearray(segment["size"])
    for _ in bucket.fill(path_ranges, memoryview(found)):
        pass
    assert found == data[::-1]
    assert hashlib.sha256(found).hexdigest() == segment["sha256"]
