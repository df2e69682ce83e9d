"""The codecs: what comes back is what went in, type included; what was changed does not come back at all."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import hashlib
import http
import io
import math
import os
import pathlib
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import typing
import uuid
import zoneinfo
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings

from airflow_stepop.runner import hashing, protocol
from airflow_stepop.runner.entries import Encoded, EntryError, SegmentError, UntrustedPickleError
from airflow_stepop.runner.readable import readable
from airflow_stepop.runner.values import decode_entry, encode_data, encode_value, plain_json, read_checked
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


keys = st.text(max_size=3) | st.sampled_from(["()", "(())", "(set)", "(dict)", "(datetime.date)"])
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


class Answer(enum.Enum):
    """An enum that is not in the standard library."""

    YES = 1


class Pair(typing.NamedTuple):
    """A tuple that is more than its items."""

    a: int
    b: int


cyclic: list = []
cyclic.append(cyclic)
deep: list = []
for _ in range(150):
    deep = [deep]


@pytest.mark.parametrize(
    "value",
    [
        Text("a"),
        {Text("a"): 1},
        10**5000,
        cyclic,
        deep,
        np.array([None]),
        [np.array([1.5])],
        {"a": b"x"},
        set(range(20_000)),
        [1.5j] * 30_000,
        bytearray,
        pd.Timestamp("2024-01-01"),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0), "Zulu")),
        datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo.no_cache("Europe/Berlin")),
        datetime.datetime(2024, 1, 1, fold=1),
        decimal.Decimal("sNaN"),
        np.zeros(1, "i4,f8")[0],
        np.longdouble(1),
        re.I | re.M,
        Answer.YES,
        Pair(1, 2),
    ],
    ids=range(21),
)
def test_everything_else_is_a_pickle(value):
    """What no data codec holds exactly is pickled, and not read back without trust."""
    with pytest.raises(UntrustedPickleError, match="have no trusted digest"):
        there_and_back(value)
    codec, back = there_and_back(value, loads=loads)
    assert codec == "pickle"
    assert type(back) is type(value)


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TYPED = [
    (np.float64(0.93), '{"(numpy.float64)":0.93}', 0.93),
    (np.float32(0.5), '{"(numpy.float32)":0.5}', 0.5),
    (np.float16(-0.0), '{"(numpy.float16)":-0.0}', -0.0),
    (np.int8(-3), '{"(numpy.int8)":-3}', -3),
    (np.uint64(2**64 - 1), '{"(numpy.uint64)":18446744073709551615}', 2**64 - 1),
    (np.bool_(True), '{"(numpy.bool)":true}', True),
    (np.complex64(1 + 2j), '{"(numpy.complex64)":[1.0,2.0]}', [1.0, 2.0]),
    (np.str_("é"), '{"(numpy.str_)":"é"}', "é"),
    (np.bytes_(b"a"), '{"(numpy.bytes_)":"a"}', "a"),
    (np.datetime64("2024-01-01T12", "ns"), None, "2024-01-01T12:00:00.000000000"),
    (np.datetime64("NaT"), '{"(numpy.datetime64)":"NaT"}', "NaT"),
    (np.timedelta64(5, "s"), '{"(numpy.timedelta64[s])":5}', 5),
    (datetime.date(2024, 2, 29), '{"(datetime.date)":"2024-02-29"}', "2024-02-29"),
    (datetime.time(1, 2, 3, 4), None, "01:02:03.000004"),
    (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), None, "2024-02-29T12:00:00+00:00"),
    (datetime.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), None, "2024-10-27T02:30:00+02:00[Europe/Berlin]"),
    (
        datetime.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        None,
        "2024-10-27T02:30:00+01:00[Europe/Berlin]",
    ),
    (datetime.timedelta(1, 2), None, {"days": 1, "seconds": 2, "microseconds": 0}),
    (decimal.Decimal("0.10"), '{"(decimal.Decimal)":"0.10"}', "0.10"),
    (uuid.UUID(int=7), None, "00000000-0000-0000-0000-000000000007"),
    (pathlib.Path("/a/b"), '{"(pathlib.PosixPath)":"/a/b"}', "/a/b"),
    (pathlib.PureWindowsPath("c:/x"), None, "c:\\x"),
    (http.HTTPStatus.OK, '{"(enum)":"http.HTTPStatus.OK"}', "http.HTTPStatus.OK"),
    (signal.SIGTERM, '{"(enum)":"signal.Signals.SIGTERM"}', "signal.Signals.SIGTERM"),
    ({3, 1, 2}, '{"(set)":[1,2,3]}', [1, 2, 3]),
    (frozenset({(1,)}), '{"(frozenset)":[{"()":[1]}]}', [[1]]),
    ({1: "a", None: "b"}, '{"(dict)":[[1,"a"],[null,"b"]]}', {"1": "a", "null": "b"}),
    ({1: "a", "1": "b"}, None, [[1, "a"], ["1", "b"]]),
    ({"(set)": [1]}, '{"()":{"(set)":[1]}}', {"(set)": [1]}),
    (float("-inf"), '{"(float)":"-inf"}', "-inf"),
    (1 + 2j, '{"(complex)":[1.0,2.0]}', [1.0, 2.0]),
]


@pytest.mark.parametrize(("value", "text", "shown"), TYPED, ids=[str(value) for value, _, _ in TYPED])
def test_values_of_known_types_are_data(value, text, shown):
    """Alone and inside a dict: they come back equal with their type, and people can read what is written."""
    data = encode_data({"x": [value]}).segments[0][0]
    assert text is None or data.decode() == f'{{"x":[{text}]}}'
    assert readable(plain_json(data)) == {"x": [shown]}
    for one, wanted in ((value, value), ({"x": [value]}, {"x": [value]})):
        codec, back = there_and_back(one)
        assert codec == "json"
        assert repr(back) == repr(wanted)
        assert back == wanted or "nat" in repr(value).lower()


@pytest.mark.parametrize(
    "value", [float("nan"), np.float64("nan"), np.float32(0) / np.float32(1) * np.float32("nan")]
)
def test_nan_is_data(value):
    codec, back = there_and_back([value])
    assert codec == "json"
    assert type(back[0]) is type(value)
    assert back[0] != back[0]


def test_without_numpy_its_scalars_are_plain_numbers():
    data = encode_data({"auc": np.float64(0.5), "n": np.int64(3), "ok": np.bool_(True)}).segments[0][0]
    code = f"""
import sys
sys.modules["numpy"] = None
from airflow_stepop.runner.values import decode_json
value = decode_json({bytes(data)!r})
print(value, [type(one).__name__ for one in value.values()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'auc': 0.5, 'n': 3, 'ok': True} ['float', 'int', 'bool']\n", done.stderr


@pytest.mark.parametrize(
    "text",
    [
        '{"(os.system)": "true"}',
        '{"(enum)": "antigravity.x.y"}',
        '{"(enum)": "http.client.HTTPConnection"}',
        '{"(enum)": "http.HTTPStatus.NOPE"}',
        '{"(numpy.object)": 1}',
        '{"(numpy.O)": 1}',
        '{"(numpy.i4,i4)": 1}',
        '{"(datetime.timezone)": "x"}',
        '{"(datetime.timedelta)": 3}',
        '{"(pathlib.Path)": "x"}',
        '{"(set)": [[]]}',
        '{"(dict)": [1]}',
        '{"(complex)": 3}',
        '{"()": 3}',
    ],
)
def test_a_type_that_is_not_known_is_refused(text):
    """Nothing is imported or called that is not named in the module."""
    data = text.replace(": ", ":", 1).encode()
    segment = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "data": base64.b64encode(data).decode(),
    }
    with pytest.raises(EntryError, match="its bytes are not json data"):
        decode_entry({"codec": "json", "segments": [segment]}, None)
    assert "antigravity" not in sys.modules


def test_a_set_is_written_alike_in_every_process():
    """A digest of arguments does not depend on the order of a set."""
    code = """
from airflow_stepop.runner.values import encode_data
print(encode_data({"x": {"a", "b", "c", ("d", "e")}}).segments[0][0].decode())
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": str(seed)},
            cwd=os.getcwd(),
        ).stdout
        for seed in range(3)
    }
    assert texts == {'{"x":{"(set)":["a","b","c",{"()":["d","e"]}]}}\n'}


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
    [np.array([object()]), np.ma.array([1]), np.zeros(2, [("a", "i4")]), np.recarray(1, "i4")],
    ids=["objects", "masked", "records", "recarray"],
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
    value = {"big": np.ones(100_000), "small": np.ones(10), 1: "x"}
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
    with pytest.raises(SegmentError, match="does not have the SHA-256"):
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
    with pytest.raises(SegmentError, match="does not have the SHA-256"):
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
