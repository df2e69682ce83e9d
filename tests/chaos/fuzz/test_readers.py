"""Every reader of stored bytes reads damaged data: it raises only declared errors and unpickles nothing.

A correct document is damaged at random places (a value changed, a key removed, a bit flipped, the end cut
off). Among the new values is a pickle that would leave a mark if it were loaded. ``make fuzz-readers`` tries
more examples.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import zipfile
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from airflow_stepop.exceptions import StepopError
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.hooks.local.supervisor.log import END_OF_TIME, LogPosition, read_records
from airflow_stepop.job import JobHandle
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.record import StepRecord
from airflow_stepop.results import StepResult
from airflow_stepop.runner import kept, manifest, protocol
from airflow_stepop.runner.entries import SegmentError, UntrustedPickleError
from airflow_stepop.runner.failures import StepError
from airflow_stepop.runner.hashing import sha256
from airflow_stepop.runner.parts import Parts, extract
from airflow_stepop.runner.values import decode_entry, encode_value
from tests.support.damage import bomb, bomb_entry, inline, report_of
from tests.support.documents import FAILURE, HANDLE, OUTCOME, RECORD, REFERENCE, XCOM

EXAMPLES = int(os.environ.get("STEPOP_FUZZ_EXAMPLES", "150"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ODD = st.sampled_from(
    [
        bomb_entry(),
        {"plain": bomb_entry()},
        {**bomb_entry(), "codec": "json"},
        2**70,
        "\ud800",
        "../x",
        [[[]]],
        {},
    ]
)
VALUES = ODD | st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw, document):
    """Return the document with one to three of its places changed or removed."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        at = found
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            if draw(st.integers(0, 3)) == 0:
                del at[key]
            else:
                at[key] = copy.deepcopy(draw(VALUES))  # a copy, since it may be damaged in turn
            break
    return found


@st.composite
def damaged_bytes(draw, data):
    """Return the bytes with a bit flipped, a part gone or inserted, or something else instead."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    return draw(
        st.sampled_from(
            [
                data[:at],
                data[at:],
                data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :],
                data[:at] + draw(st.binary(max_size=20)) + data[at:],
                bomb(),
            ]
        )
    )


@pytest.fixture(autouse=True)
def nothing_is_unpickled(mark):
    yield
    assert not mark.exists()


def read(reader, data, *declared):
    try:
        return reader(data)
    except (StepopError, *declared):
        return None


@fuzzed
@given(damaged(HANDLE))
def test_handle(data):
    found = read(JobHandle.from_json, data)
    assert found is None or str(found)


@fuzzed
@given(damaged({**RECORD, "collected": {"failure": FAILURE, "usage": {"asked": {}}}}))
def test_record(data):
    found = read(StepRecord.from_json, data)
    assert found is None or StepRecord.from_json(found.to_json()) == found


@fuzzed
@given(damaged({**REFERENCE, "mac": "0" * 64}))
def test_reference(data):
    found = read(StepResult.from_json, data)
    if found is not None:
        assert repr(found)
        read(lambda reference: reference.load(), found)


NAMES = st.sampled_from(
    [
        *(
            "()",
            "(float)",
            "(complex)",
            "(dict)",
            "(set)",
            "(frozenset)",
            "(enum)",
            "(os.system)",
            "(builtins.eval)",
        ),
        *(
            "(datetime.date)",
            "(datetime.time)",
            "(datetime.datetime)",
            "(datetime.timedelta)",
            "(datetime.timezone)",
        ),
        *(
            "(decimal.Decimal)",
            "(uuid.UUID)",
            "(pathlib.PosixPath)",
            "(pathlib.Path)",
            "(numpy.float64)",
            "(numpy.O)",
        ),
        *(
            "(numpy.str_)",
            "(numpy.bytes_)",
            "(numpy.datetime64[ns])",
            "(numpy.S99)",
            "(numpy.i4,i4)",
            "(numpy.)",
        ),
    ]
)
TEXTS = st.sampled_from(
    [
        *("nan", "1e9999", "NaT", "2024-02-29", "2024-02-29T12:00:00[Europe/Berlin]", "12:00[../../x]"),
        *("http.HTTPStatus.OK", "re.sys.path", "uuid.os.x", "inspect.modulesbyfile.x"),
    ]
)
TYPED = st.recursive(
    SCALARS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES, inner, min_size=1, max_size=1)
        | st.dictionaries(st.sampled_from(["days", "weeks", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@fuzzed
@given(TYPED)
def test_json_with_types(plain):
    """Any JSON with names of types is read or refused. Each value that is read can be written again."""
    data = json.dumps(plain, separators=(",", ":")).encode("utf-8", "surrogatepass")
    entry = inline("json", data)
    read(lambda one: StepResult(one, "").serialize(), entry)
    value = read(lambda one: decode_entry(one, lambda *_: b""), entry, SegmentError, ImportError)
    if value is not None:
        encode_value(value, lambda *_: b"")


@fuzzed
@given(damaged(XCOM))
def test_xcom(data):
    found = read(lambda given: StepResult.deserialize(given, 1), data)
    if found is not None:
        assert StepResult.deserialize(found.serialize(), 1) == found
        read(lambda reference: reference.load(), found)


@fuzzed
@given(
    damaged_bytes(base64.b64decode(XCOM["reference"]))
    | damaged_bytes(zlib.decompress(base64.b64decode(XCOM["reference"]))).map(zlib.compress)
)
def test_reference_of_an_xcom(data):
    found = read(
        lambda given: StepResult.deserialize({**XCOM, "reference": base64.b64encode(given).decode()}, 1), data
    )
    if found is not None:
        read(lambda reference: reference.load(), found)


@fuzzed
@given(damaged({**OUTCOME, "values": [inline("json", b"1")], "outputs": {"x": inline("file", b"2")}}))
def test_outcome(data):
    for digest in ({}, {"digest": None}):
        found = read(
            lambda given, digest=digest: read_outcome(report_of(given, **digest), "s-job", "n"), data
        )
        if found is not None and "result" in found:
            read(to_xcom, found["result"])


@fuzzed
@given(damaged_bytes(json.dumps(OUTCOME).encode()))
def test_bytes_of_an_outcome(data):
    read(lambda given: read_outcome(report_of(given), "s-job", "n"), data)


@fuzzed
@given(damaged({"list": [{"plain": inline("json", b"1")}, {"reference": REFERENCE}]}))
def test_collected_result(data):
    read(to_xcom, data)


@fuzzed
@given(st.sampled_from(sorted(protocol.DATA_CODECS - {"file"})), st.binary(max_size=200) | st.just(bomb()))
def test_bytes_of_a_value(codec, data):
    read(lambda entry: decode_entry(entry, None), inline(codec, data), SegmentError)


@fuzzed
@given(damaged(bomb_entry()))
def test_entry(data):
    read(lambda entry: decode_entry(entry, _no_segment), data, SegmentError, UntrustedPickleError)


def _no_segment(segment, codec):
    raise SegmentError("there is none")


MANIFEST = {
    "protocol": 1,
    "job": "s-job",
    "nonce": "n",
    "kind": "command",
    "command": {},
    "python": None,
    "parts": {},
    "split": "no",
    "discard_result": False,
    "refs": [],
}


def _read_manifest(folder, data):
    (folder / protocol.MANIFEST).write_bytes(data)
    return manifest.read_manifest({"in": str(folder), "digest": sha256(len(data), data).hexdigest()})


@fuzzed
@given(damaged(MANIFEST))
def test_manifest(tmp_path, data):
    found = read(lambda given: _read_manifest(tmp_path, json.dumps(given).encode()), data, StepError)
    assert found is None or {type(found["job"]), type(found["nonce"])} == {str}


KEPT = {"nonce": "n", "code": 0, "attempt": 1, "files": [[0, "weights", sha256(1, b"w").hexdigest(), 1]]}


@fuzzed
@given(damaged({**KEPT, "why": ""}), damaged(OUTCOME))
def test_kept_results(tmp_path, about, outcome):
    """Also of somebody who knows the key: the runner goes on, and writes below its own folders only."""
    guard, out = tmp_path / "guard", tmp_path / "top" / "model" / "stepop"
    guard.mkdir(exist_ok=True)
    options = {"seal": "ab" * 32, "started": str(guard), "out": str(out), "kept": str(out.parent)}
    data = b"\n".join(json.dumps(one).encode() for one in (about, outcome))
    (guard / "kept-0").write_bytes(kept._signed(options, data))
    (guard / "kept-0.0").write_bytes(b"w")
    assert kept.restore(options, "n") is None or (out / protocol.OUTCOME).exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"guard", "top"}
    assert {path.name for path in tmp_path.glob("top/*")} <= {"model"}


@fuzzed
@given(damaged_bytes(json.dumps(MANIFEST).encode()))
def test_bytes_of_a_manifest(tmp_path, data):
    read(lambda given: _read_manifest(tmp_path, given), data, StepError)


@fuzzed
@given(damaged({"code.zip": "elsewhere", "x": "y"}), st.booleans(), st.data())
def test_locations(tmp_path, data, is_whole, more):
    text = json.dumps(data).encode()
    (tmp_path / protocol.LOCATIONS).write_bytes(text if is_whole else more.draw(damaged_bytes(text)))
    segment = {"sha256": "0" * 64, "size": 3, "name": "code.zip"}
    with pytest.raises(StepError):
        Parts({"in": str(tmp_path)}).read(segment)


def _archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/__init__.py", "x = 1\n")
        archive.writestr("data.bin", bytes(range(256)))
    return stream.getvalue()


@fuzzed
@given(damaged_bytes(_archive()))
def test_archive(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    read(lambda given: extract(bytearray(given), str(folder / "in")), data, StepError)
    assert [path.name for path in folder.iterdir()] in ([], ["in"])


STATE = {
    "state": "succeeded",
    "pid": 1,
    "boot_id": "b",
    "started_at": 1.0,
    "finished_at": 2.0,
    "failure": FAILURE,
    "receipt": {"digest": "0", "size": 1, "outcome": "AAAA"},
    "usage": {},
    "tmp": "/tmp/stepop-x",
}


@fuzzed
@given(damaged(STATE), damaged({"nonce": "n", "labels": {"dag_id": "d"}, "result_uri": "file:///x"}))
def test_files_of_a_local_job(tmp_path, state, request_):
    folder = JobFolder(tmp_path / "s-job")
    folder.path.mkdir(exist_ok=True)
    (folder.path / "state.json").write_text(json.dumps(state))
    (folder.path / "request.json").write_text(json.dumps(request_))
    read(lambda _: folder.state(), None)
    read(lambda _: folder.request(), None)


@fuzzed
@given(st.lists(st.binary(max_size=30), max_size=8), damaged_bytes(b"1.000000 a\n 2.000000 b\n3.000000 c\n"))
def test_log(tmp_path, lines, data):
    (tmp_path / "log").write_bytes(b"\n".join(lines) + data + b"\n")
    place, count = LogPosition(), 0
    while True:
        records, place = read_records(str(tmp_path / "log"), place, 64)
        if not records:
            break
        count += len(records)
        assert all(0 <= when < END_OF_TIME for when, _ in records)
    assert place.position == (tmp_path / "log").stat().st_size
    assert count
