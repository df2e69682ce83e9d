"""The codecs: what comes back is what went in, type included; what was changed does not come back at all."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import pickle
import random
import subprocess
import sys
import threading
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from airflow_stepop.runner import hashing, protocol
from airflow_stepop.runner.entries import Encoded, EntryError, SegmentError, UntrustedPickleError
from airflow_stepop.runner.values import decode_entry, encode_data, encode_value, read_checked
from tests.support.memory import at_most


def dumps(value, callback):
    return pickle.dumps(value, protocol=5, buffer_callback=callback)


def loads(data, buffers):
    return pickle.loads(data, buffers=buffers)


def there_and_back(value, limit=protocol.INLINE_VALUE_BYTES, loads=None):
    """Return the codec and the decoded value."""
    store = []

    def save(buffers, digest, size):
        store.append(b"".join(buffers))
        return {"name": str(len(store) - 1)}

    def read(segment, codec):
        return read_checked(io.BytesIO(store[int(segment["name"])]), segment, codec=codec)

    entry = encode_value(value, dumps).to_entry(save, limit)
    return entry["codec"], decode_entry(entry, read, loads)


def same(a, b):
    """Equal, with equal types all the way down; a NaN equals a NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and a == b
    return a == b


keys = st.text(max_size=3) | st.sampled_from(["()", "(())"])
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, categories=None)),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
)


@given(plain, st.sampled_from([0, 48 * 1024]))
@settings(max_examples=100, deadline=None)
def test_json_is_exact(value, limit):
    """Every plain value comes back with its types: tuples, big integers, lone surrogates, odd keys."""
    codec, back = there_and_back(value, limit)
    assert codec == "json"
    assert same(value, back)


@pytest.mark.parametrize(
    "value",
    [{"()": []}, {"()": {}}, {"()": {"()": ()}}, ({"()": (1,)},), "\ud83d\ude00", "😀", -0.0, 2**64, ()],
)
def test_json_corner_cases(value):
    """Values that look like our own notation survive it."""
    codec, back = there_and_back(value)
    assert codec == "json"
    assert same(value, back)


class Text(str):
    """A subclass is not the type itself."""


cyclic: list = []
cyclic.append(cyclic)
deep: list = []
for _ in range(150):
    deep = [deep]


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        {1: 2},
        {"a": {2}},
        Text("a"),
        [np.float64(1)],
        10**5000,
        {None: 1},
        cyclic,
        deep,
        np.array([None]),
    ],
    ids=range(10),
)
def test_everything_else_is_a_pickle(value):
    """What no data codec holds exactly is pickled, and not read back without trust."""
    with pytest.raises(UntrustedPickleError, match="nobody vouches"):
        there_and_back(value)
    codec, back = there_and_back(value, loads=loads)
    assert codec == "pickle"
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [b"", b"ab", bytearray(b"ab"), bytes(100_000), bytearray(100_000)])
def test_bytes(value):
    """bytes stay bytes, bytearray stays bytearray."""
    codec, back = there_and_back(value)
    assert codec == type(value).__name__
    assert same(value, back)


ARRAYS = {
    "plain": np.arange(6.0),
    "big endian": np.arange(6, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "slice": np.arange(20)[::3],
    "transposed slice": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "zero dimensions": np.array(3.5),
    "empty": np.zeros((0, 3), "f4"),
    "bool": np.array([True, False]),
    "text": np.array(["a", "bcd"]),
    "empty text": np.array(["", ""]),
    "dates": np.array(["2024-01-01", "NaT"], "M8[ns]"),
    "complex": np.array([1j]),
    "read-only": np.frombuffer(b"abcd", "u1"),
    "large": np.ones((300, 400)),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("limit", [0, 48 * 1024])
def test_numpy(array, limit):
    """An array comes back with its dtype, shape and order, writable, and its file is a valid .npy."""
    codec, back = there_and_back(array, limit)
    assert codec == "numpy"
    assert back.dtype == array.dtype
    assert back.dtype.byteorder == array.dtype.byteorder
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous
    npy = b"".join(encode_data(array).segments[0])
    np.testing.assert_array_equal(np.load(io.BytesIO(npy), allow_pickle=False), array)


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.ma.array([1]), np.zeros(2, [("a", "i4")]), np.float64(1), np.recarray(1, "i4")],
    ids=["objects", "masked", "records", "scalar", "recarray"],
)
def test_numpy_relatives_are_pickled(array):
    """Only plain arrays are data."""
    assert encode_data(array) is None


def test_numpy_is_not_copied():
    """A contiguous array is written from its own memory."""
    array = np.arange(1000.0)
    buffer = np.frombuffer(encode_data(array).segments[0][1], "f8")
    assert np.shares_memory(array, buffer)


def test_array_of_objects_is_never_loaded():
    """An .npy that claims to hold objects is refused."""
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    data = stream.getvalue()
    import hashlib

    segment = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "data": base64.b64encode(data).decode(),
    }
    with pytest.raises(EntryError, match="objects"):
        decode_entry({"codec": "numpy", "segments": [segment]}, None)


def test_arrow():
    """Tables and record batches come back as what they were, with their schema."""
    table = pa.table({"x": [1, None], "y": ["a", "b"]}).replace_schema_metadata({"k": "v"})
    codec, back = there_and_back(table)
    assert codec == "arrow"
    assert back.equals(table, check_metadata=True)
    batch = table.to_batches()[0]
    codec, back = there_and_back(batch, 0)
    assert codec == "arrow_batch"
    assert type(back) is pa.RecordBatch
    assert back.equals(batch)


def test_large_buffers_of_a_pickle():
    """Large buffers are segments of their own, small ones stay in the pickle; all come back writable."""
    value = {"big": np.ones(100_000), "small": np.ones(10), 1: "no json"}
    encoded = encode_value(value, dumps)
    assert len(encoded.segments) == 2
    _, back = there_and_back(value, 0, loads)
    back["big"][0] = back["small"][0] = 3
    assert back["big"].base is not None


def test_thousands_of_buffers():
    """Many buffers do not become as many segments."""
    value = {index: np.ones(40_000) for index in range(150)}
    encoded = encode_value(value, dumps)
    assert len(encoded.segments) == 101


def test_damage():
    """Changed, truncated or extended bytes are never decoded, inline or not."""
    entry = encode_value("text", dumps).to_entry(None)
    entry["segments"][0]["data"] = base64.b64encode(b'"tEXT"').decode()
    with pytest.raises(SegmentError, match="has SHA-256"):
        decode_entry(entry, None)
    segment = {"sha256": "0" * 64, "size": 3, "name": "p"}
    with pytest.raises(SegmentError, match="p has 2 bytes and not the 3 that were recorded"):
        read_checked(io.BytesIO(b"ab"), segment)
    with pytest.raises(SegmentError, match="p has at least 4 bytes and not the 3"):
        read_checked(io.BytesIO(b"abcd"), segment)


def test_unknown_codec():
    """A codec of a later version is named."""
    entry = {"codec": "parquet", "segments": [{"sha256": "", "size": 0, "data": ""}]}
    with pytest.raises(EntryError, match="unknown codec 'parquet'; known are arrow, "):
        decode_entry(entry, None)


def test_nothing_is_imported():
    """Encoding and decoding plain values imports neither numpy nor pyarrow."""
    code = """
import sys
from airflow_stepop.runner import values
entry = values.encode_value({"a": (1, b"x")}, lambda v, c: b"").to_entry(None)
values.decode_entry(values.encode_value(b"x", None).to_entry(None), None)
print(sorted({"numpy", "pyarrow", "hashlib"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({os.getcwd()!r})\n{code}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_large_value_is_hashed_beside_its_writing():
    """The digest is that of the bytes, whoever asks first; what is being written is not waited for."""
    data = bytes(hashing.LARGE_BYTES) + b"end"
    encoded = Encoded("bytes", [[memoryview(data)[:10], memoryview(data)[10:]]])
    seen = []

    def save(buffers, digest, size):
        seen.append((b"".join(buffers) == data, size))
        return {"name": "x"}

    entry = encoded.to_entry(save)
    expected = hashlib.sha256(data).hexdigest()
    assert entry["segments"] == [{"sha256": expected, "size": len(data), "name": "x"}]
    assert encoded.digests() == [(expected, len(data))]
    assert seen == [(True, len(data))]
    assert read_checked(io.BytesIO(data), entry["segments"][0]) == data
    with pytest.raises(SegmentError, match="has SHA-256"):
        read_checked(io.BytesIO(data[:-1] + b"!"), entry["segments"][0])


@pytest.mark.parametrize("kind", [bytes, bytearray, partial(np.frombuffer, dtype="u1")])
def test_a_large_value_is_what_it_was(kind):
    value = kind(random.Random(1).randbytes(hashing.LARGE_BYTES + 1))
    _, again = there_and_back(value)
    assert type(again) is type(value)
    assert bytes(again) == bytes(value)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_large_array_can_be_written_and_is_its_owners_alone():
    """As memory that a parent shares with its child would not be."""
    _, again = there_and_back(np.zeros(hashing.LARGE_BYTES, "u1"))
    pid = os.fork()
    if pid == 0:
        again[0] = 1
        os._exit(int(again[0] != 1))
    assert os.waitpid(pid, 0)[1] == 0
    assert again[0] == 0
    again[0] = 2


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_read_into_what_they_become(kind):
    data = bytes(hashing.LARGE_BYTES)
    entry = encode_value(kind(data), dumps).to_entry(lambda *_: {"name": "x"})
    with at_most(1.1 * len(data)):
        value = decode_entry(entry, lambda one, codec: read_checked(io.BytesIO(data), one, codec=codec))
    assert type(value) is kind
    assert value == data


@pytest.mark.parametrize("codec", ["bytes", "bytearray", "numpy"])
def test_memory_that_nobody_has_is_refused(codec):
    for size in (1 << 60, 1 << 66):
        with pytest.raises(MemoryError):
            hashing.ReadBuffer(size, codec)


def test_nothing_waits_when_writing_fails():
    """The thread that hashes ends with its input."""
    encoded = Encoded("bytes", [[bytes(hashing.LARGE_BYTES)]])

    def save(*_):
        raise OSError("no space")

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="no space"):
        encoded.to_entry(save)
    encoded.digests()
    assert not set(threading.enumerate()) - before
