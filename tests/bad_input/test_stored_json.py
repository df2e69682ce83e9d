"""JSON that this package wrote and that was changed since: in the database, on a disk, by another version.

Each field of each document gets values of every wrong kind. Each time there is one clear error that names the
field, and nothing is started, loaded or unpickled.
"""

from __future__ import annotations

import json
import re

import pytest

from airflow_stepop.exceptions import IntegrityError, StepopError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobHandle, JobStatus
from airflow_stepop.lifecycle.lifecycle import StepLifecycle
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.record import STATE_KEY, CallIdentity, StepRecord
from airflow_stepop.results import StepResult
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.damage import bomb_entry, report_of
from tests.support.documents import (
    EXCEPTION,
    FAILURE,
    HANDLE,
    INLINE,
    OUTCOME,
    RECORD,
    REFERENCE,
    STATUS,
    XCOM,
)
from tests.support.memory_backend import Log, MemoryHook, MemoryState, Request

pytestmark = [pytest.mark.corpus, pytest.mark.once]

SAMPLES = {
    "nothing": None,
    "truth": True,
    "count": 7,
    "negative": -1,
    "huge": 10**30,
    "fraction": 1.5,
    "nan": float("nan"),
    "infinite": float("-inf"),
    "text": "text",
    "list": [],
    "list of numbers": [1],
    "object": {},
}
TEXTS, OBJECT = "list", "object"
NUMBER = ("count", "negative", "fraction")

# document -> (a valid one, field -> the valid samples, the optional fields)
DOCUMENTS = {
    "handle": (
        HANDLE,
        {
            "backend": ("text",),
            "conn_id": ("text", "nothing"),
            "scope": ("text",),
            "id": ("text",),
            "name": ("text",),
            "detail": (OBJECT,),
            "nonce": ("text",),
            "instance": ("text",),
        },
        {"detail", "nonce", "instance"},
    ),
    "failure": (
        FAILURE,
        {
            "category": (),
            "summary": ("text",),
            "native_reason": ("text",),
            "exit_code": ("nothing", "count", "negative", "huge"),
            "hint": ("text",),
            "log_tail": (TEXTS,),
            "exception": ("nothing", OBJECT),
            "has_succeeded": ("truth",),
        },
        {"native_reason", "exit_code", "hint", "log_tail", "exception", "has_succeeded"},
    ),
    "exception": (
        EXCEPTION,
        {
            "module": ("text",),
            "qualname": ("text",),
            "message": ("text",),
            "traceback": (TEXTS,),
            "mro": (TEXTS,),
            "args": ("nothing", "list", "list of numbers"),
        },
        set(EXCEPTION),
    ),
    "record": (
        RECORD,
        {
            "generation": ("count",),
            "nonce": ("text",),
            "call": (),
            "backend": ("text",),
            "conn_id": ("text", "nothing"),
            "name": ("text",),
            "started_at": NUMBER,
            "labels": (OBJECT,),
            "handle": ("nothing",),
            "submitted_at": (*NUMBER, "nothing"),
            "end": ("nothing",),
            "collected": ("nothing",),
            "resubmissions": ("count",),
            "memory_bytes": ("count", "nothing"),
            "keep": ("text",),
            "asked": (OBJECT,),
        },
        {
            "labels",
            "handle",
            "submitted_at",
            "end",
            "collected",
            "resubmissions",
            "memory_bytes",
            "keep",
            "asked",
        },
    ),
    "status": (
        STATUS,
        {
            "state": (),
            "failure": ("nothing",),
            "native": ("text",),
            "started_at": (*NUMBER, "nothing"),
            "finished_at": (*NUMBER, "nothing"),
        },
        {"failure", "native", "started_at", "finished_at"},
    ),
    "call": (RECORD["call"], {"key": ("text",), "max_tries": ("count",), "clear_number": ("count",)}, set()),
    "reference": (
        REFERENCE,
        {"entry": (), "base_uri": ("text",), "host": ("text",), "mac": ("text",)},
        {"host", "mac"},
    ),
    "xcom": (
        XCOM,
        {"base_uri": ("text",), "job": ("text",), "step": ("text",), "reference": ()},
        set(),
    ),
    "outcome": (
        OUTCOME,
        {
            "protocol": (),
            "job": (),
            "nonce": (),
            "status": (),
            "value": ("nothing",),
            "split": ("nothing", "text"),
            "values": ("nothing", "list", OBJECT),
            "outputs": ("nothing", OBJECT),
            "usage": ("nothing", OBJECT),
        },
        {"value", "split", "values", "outputs", "failure", "usage"},
    ),
    "result": ({"value": {"plain": INLINE}}, {"value": ()}, set()),
    "kept value": ({"plain": INLINE}, {"plain": ()}, set()),
    "stored result": (
        {"uri": "file:///x", "sha256": "0", "size": 1, "host": ""},
        {"uri": ("text",), "sha256": ("text",), "size": ("count",), "host": ("text",)},
        set(),
    ),
}
READERS = {
    "handle": JobHandle.from_json,
    "failure": Failure.from_json,
    "exception": lambda data: Failure.from_json({**FAILURE, "exception": data}),
    "record": StepRecord.from_json,
    "status": JobStatus.from_json,
    "call": lambda data: StepRecord.from_json({**RECORD, "call": data}),
    "reference": StepResult.from_json,
    "xcom": lambda data: StepResult.deserialize(data, 1),
    "outcome": lambda data: read_outcome(report_of(data), "s-job", "n"),
    "result": to_xcom,
    "kept value": lambda data: to_xcom({"value": data}),
    "stored result": lambda data: to_xcom({"stored": data}),
}
EDITED = [
    pytest.param(document, field, sample, id=f"{document}-{field}-{sample}")
    for document, (_, fields, _) in DOCUMENTS.items()
    for field, accepted in fields.items()
    for sample in SAMPLES
    if sample not in accepted
]
MISSING = [
    (document, field)
    for document, (valid, fields, optional) in DOCUMENTS.items()
    for field in fields
    if field not in optional
]


@pytest.mark.parametrize(("document", "field", "sample"), EDITED)
def test_a_field_of_another_kind_is_refused(document, field, sample):
    valid, _, _ = DOCUMENTS[document]
    with pytest.raises(IntegrityError) as caught:
        READERS[document]({**valid, field: SAMPLES[sample]})
    assert re.search(
        rf"\b{field}\b|it is not a value entry|belongs to job|a (collected )?value", str(caught.value)
    )
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("document", "field"), MISSING)
def test_a_missing_field_is_named(document, field):
    valid, _, _ = DOCUMENTS[document]
    with pytest.raises(IntegrityError, match=rf"no '{field}'|is not one of|is not a value entry"):
        READERS[document]({name: value for name, value in valid.items() if name != field})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_valid_document_is_read_with_what_a_newer_version_adds(document):
    valid, _, _ = DOCUMENTS[document]
    if document == "stored result":
        with pytest.raises(StepopError, match="it lies outside the configured stores"):
            READERS[document](valid)
    else:
        READERS[document]({**valid, "added_later": {"x": [1]}})


@pytest.mark.parametrize("sample", ["truth", "count", "text", "list", "nothing"])
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in ("result", "exception")])
def test_a_document_that_is_no_object_is_refused(document, sample):
    with pytest.raises(IntegrityError, match=r"not an object|not a value entry|not an outcome"):
        READERS[document](SAMPLES[sample])


# -- value entries: in a reference, an outcome, or a collected result

ENTRIES = {
    "no entry": (7, "which is not an object|is not a value entry"),
    "empty": ({}, "it is not a value entry"),
    "no segments": ({"codec": "json", "segments": []}, "it is not a value entry"),
    "segments as text": ({"codec": "json", "segments": "text"}, "it is not a value entry"),
    "codec as list": ({**INLINE, "codec": ["json"]}, "unknown codec"),
    "codec of a later version": ({**INLINE, "codec": "parquet"}, "unknown codec 'parquet'; known are arrow"),
    "two segments of data": ({**INLINE, "segments": INLINE["segments"] * 2}, "has one segment and not 2"),
    "segment as text": ({**INLINE, "segments": ["text"]}, "one of its segments lacks its SHA-256, its size"),
    "no size": (
        {"codec": "json", "segments": [{"sha256": "0", "data": ""}]},
        "one of its segments lacks its SHA-256, its size",
    ),
    "negative size": (
        {"codec": "json", "segments": [{"sha256": "0", "size": -1, "data": ""}]},
        "one of its segments lacks its SHA-256, its size",
    ),
    "size as truth": (
        {"codec": "json", "segments": [{"sha256": "0", "size": True, "data": ""}]},
        "one of its segments lacks its SHA-256, its size",
    ),
    "digest as number": (
        {"codec": "json", "segments": [{"sha256": 0, "size": 0, "data": ""}]},
        "one of its segments lacks its SHA-256, its size",
    ),
    "neither data nor name": (
        {"codec": "json", "segments": [{"sha256": "0", "size": 0}]},
        "or its data, name or pieces",
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
@pytest.mark.parametrize("place", ["reference", "outcome", "kept value"])
def test_what_is_no_value_entry_is_refused(case, place):
    entry, text = ENTRIES[case]
    document = {
        "reference": {**REFERENCE, "entry": entry},
        "outcome": {**OUTCOME, "value": entry},
        "kept value": {"plain": entry},
    }[place]
    with pytest.raises(IntegrityError, match=text):
        READERS[place](document)


DAMAGED = {
    "not base64": ({"data": "a"}, "is not base64"),
    "other bytes": ({"data": "AAAA"}, "has 3 bytes and not the"),
    "other digest": ({"sha256": "0" * 64}, "does not have the SHA-256 0+ that was recorded"),
    "other size": ({"size": 1}, "and not the 1 that were recorded"),
    "size beyond memory": ({"size": 2**62}, f"and not the {2**62} that were recorded"),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("place", ["outcome", "kept value", "load"])
def test_damaged_bytes_inside_an_entry_are_refused(case, place):
    change, text = DAMAGED[case]
    entry = {**INLINE, "segments": [{**INLINE["segments"][0], **change}]}
    read = {
        "outcome": lambda: READERS["outcome"]({**OUTCOME, "value": entry}),
        "kept value": lambda: READERS["kept value"]({"plain": entry}),
        "load": lambda: StepResult(entry, "").load(),
    }
    with pytest.raises(IntegrityError, match=text):
        read[place]()


# -- bombs: a pickle in every place that holds bytes


@pytest.mark.parametrize(
    "document",
    [
        {"value": {"plain": bomb_entry()}},
        {"value": {"reference": {"entry": bomb_entry(), "base_uri": "", "host": "", "mac": ""}}},
        {"value": {"reference": {**REFERENCE, "entry": bomb_entry()}}},
        {"list": [{"plain": bomb_entry()}]},
        {"dict": {"x": {"plain": bomb_entry()}}},
    ],
)
def test_a_pickle_in_the_record_is_not_loaded(document, mark):
    with pytest.raises(
        IntegrityError, match=r"its bytes have no trusted digest|was not signed by this deployment"
    ):
        to_xcom(document).load()
    assert not mark.exists()


@pytest.mark.parametrize("mac", ["", "0" * 64, "é", "\ud800", "x" * 10**6])
def test_a_pickle_with_a_signature_that_was_made_up_is_not_loaded(mac, mark):
    forged = StepResult.from_json({**REFERENCE, "entry": bomb_entry(), "mac": mac})
    result = StepResult.deserialize(forged.serialize(), 1)
    with pytest.raises(IntegrityError, match="the reference was not signed by this deployment"):
        result.load()
    assert not mark.exists()


def test_the_bomb_would_leave_its_mark(mark):
    StepResult.signed(bomb_entry(), "").load()
    assert mark.exists()


@pytest.mark.parametrize("codec", ["json", "numpy", "arrow", "arrow_batch"])
def test_a_pickle_that_is_called_data_is_not_loaded(codec, mark):
    with pytest.raises(IntegrityError, match=f"its bytes are not {codec} data"):
        StepResult({**bomb_entry(), "codec": codec}, "").load()
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "a\0b",
        "\ud800",
        "x" * 5000,
        "",
        ".",
        "%2e%2e/x",
        "%00",
    ],
)
def test_a_segment_with_a_strange_name_is_refused(name, mark, folder_store):
    segment = {"sha256": "0" * 64, "size": 10, "name": name}
    result = StepResult.signed({"codec": "bytes", "segments": [segment]}, folder_store.uri("results"))
    with pytest.raises(StepopError, match=r"outside the configured stores|the store could not be read"):
        result.load()


@pytest.mark.parametrize("base_uri", ["", "file:///etc", "s3://bucket", "http://[", "\0", "file://host/x"])
def test_a_segment_in_a_strange_place_is_refused(base_uri):
    segment = {"sha256": "0" * 64, "size": 10, "name": "x.bin"}
    with pytest.raises(StepopError, match="it lies outside the configured stores"):
        StepResult.signed({"codec": "bytes", "segments": [segment]}, base_uri).load()


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_reference_of_another_version_is_refused(version):
    with pytest.raises(StepopError, match=f"a result of version {version} was written by a"):
        StepResult.deserialize(REFERENCE, version)


# -- the record during a step

RECORDS = {
    "text": ("text", "is 'text' and not an object"),
    "list": ([1], r"is \[1\] and not an object"),
    "zero": (0, "is 0 and not an object"),
    "false": (False, "is False and not an object"),
    "empty": ({}, "has no 'generation'"),
    "empty text": ("", "is '' and not an object"),
    "handle of text": (
        {**RECORD, "handle": "s-job"},
        "has handle='s-job', which is not an object or nothing",
    ),
    "handle without an id": (
        {**RECORD, "handle": {k: v for k, v in HANDLE.items() if k != "id"}},
        "a job's handle has no 'id'",
    ),
    "labels of numbers": ({**RECORD, "labels": {"dag_id": 1}}, "labels has dag_id=1, which is not a text"),
    "collected of nothing": ({**RECORD, "collected": {}}, "the record's collected data has no 'result'"),
    "collected failure": ({**RECORD, "collected": {"failure": 1}}, "a failure is 1 and not an object"),
    "usage of text": (
        {**RECORD, "collected": {"result": {}, "usage": "much"}},
        "has usage='much', which is not an object",
    ),
    "asked for a number": (
        {**RECORD, "collected": {"result": {}, "usage": {"asked": 1}}},
        "the record's usage has asked=1, which is not an object",
    ),
    "unknown category": (
        {**RECORD, "collected": {"failure": {**FAILURE, "category": "bad luck"}}},
        "category='bad luck', which is not one of user_error, oom",
    ),
    "huge": ({**RECORD, "generation": "9" * 10**6}, "generation='999"),
}


@pytest.mark.parametrize("case", RECORDS)
@pytest.mark.parametrize("entrance", ["begin", "resume"])
def test_a_damaged_record_starts_nothing(case, entrance):
    """A job of the record may still run, so the damaged record is not taken for an absent one."""
    data, text = RECORDS[case]
    state, hook = MemoryState(), MemoryHook()
    state.set(STATE_KEY, data)
    lifecycle = StepLifecycle(Request(hook, CallIdentity("key", 1, 0)), state, Log())
    with pytest.raises(IntegrityError, match=text) as caught:
        getattr(lifecycle, entrance)()
    assert "the record of this step in the task's state (key 'stepop') is damaged" in str(caught.value)
    assert "then clear the task" in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert hook.calls["submit"] == 0
    assert state.get(STATE_KEY) == json.loads(json.dumps(data))


# -- failures that Airflow can store


@pytest.mark.parametrize(
    "text",
    ["\ud800", "caf\udce9.csv", "nul \0", "x" * 10**6, "é\U0001f980" * 10**5],
    ids=["surrogate", "file name", "nul", "long", "long letters"],
)
def test_a_failure_can_be_stored(text):
    """Airflow's messages cannot have half of a surrogate pair, and its task state must stay below 64 KB."""
    import msgspec

    exception = {
        **EXCEPTION,
        "message": text,
        "traceback": [text[:1000]] * 200,
        "cause": EXCEPTION,
        text[:50]: 1,
    }
    failure = Failure(Category.USER_ERROR, text, text, 1, text, (text[:16_000],) * 40, exception)
    state, hook = MemoryState(), MemoryHook()
    lifecycle = StepLifecycle(Request(hook, CallIdentity("key", 1, 0)), state, Log())
    handle = lifecycle.begin()
    hook.end(handle.name, value={"failure": failure.to_json()})
    collected = lifecycle.finish(handle, StopReason.FINISHED)
    assert collected.failure.category is Category.USER_ERROR
    data = state.get(STATE_KEY)
    msgspec.msgpack.encode(data)
    assert len(json.dumps(data)) < 60_000
