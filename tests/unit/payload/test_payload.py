"""A call becomes a payload, an outcome becomes a result. No task of Airflow is needed for that."""

from __future__ import annotations

import array
import hashlib
import json
import pickle
import re
from contextlib import suppress
from typing import Any

import pytest

from airflow_stepop.exceptions import (
    IntegrityError,
    PayloadError,
    ResultNotLoadedError,
    StepConfigError,
    StoreError,
)
from airflow_stepop.failure import Category
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.job import ObjectRange, OutcomeReport, StepSpec
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, FunctionCall, Setup, arguments_key, call_key
from airflow_stepop.payload.outcome import read_outcome, said, to_xcom
from airflow_stepop.payload.spill import spill
from airflow_stepop.results import StepResult, loads
from airflow_stepop.runner.entries import Encoded
from airflow_stepop.runner.outcome import empty_outcome
from airflow_stepop.runner.values import decode_entry, encode_value
from airflow_stepop.stores.configured import open_store
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "a key of the tests")
    return tmp_path


def function_call(function, *args, **kwargs):
    return FunctionCall(function=function, args=args, kwargs=kwargs, main_module=__name__, reference=None)


def build(call, **options):
    return build_payload(
        call,
        **{"job": "s-job", "nonce": "n", "split": "no", "is_result_wanted": True, **options},
    )


def entry_of(value: Any, limit: int = 48 * 1024) -> dict[str, Any]:
    def dumps(obj, keep):
        return pickle.dumps(obj, protocol=5, buffer_callback=keep)

    return encode_value(value, dumps).to_entry(
        lambda buffers, digest, size: {"name": f"{digest()[:8]}.bin"}, limit
    )


def outcome(**fields: Any) -> bytes:
    return json.dumps({**empty_outcome("s-job", "n"), "status": "success", **fields}).encode()


def report(data: bytes, base_uri: str = "", **fields: Any) -> OutcomeReport:
    return OutcomeReport(fields.get("digest", hashlib.sha256(data).hexdigest()), data, base_uri)


def add(a, b=1, *rest, c=0):
    return a + b + c


# -- call keys of whole calls


def keyed(call, archive=None, extra=()):
    return call_key(call, archive, extra)


def test_the_key_of_arguments_does_not_count_the_code():
    """A checkpoint is found again by code that was put right."""
    keys = [arguments_key(function_call(f, 1, {"x": [1.5]})) for f in (add, lambda a, b: b)]
    assert keys[0] == keys[1]
    assert keys[0] != arguments_key(function_call(add, 2, {"x": [1.5]}))
    commands = [CommandCall(argv=["train", n], inputs={}, outputs=()) for n in "112"]
    one, same, other = map(arguments_key, commands)
    assert one == same != other


def test_key_of_the_same_call_is_the_same():
    one, other = (keyed(function_call(add, 1, {"x": [1.5]}, c={1, 2})) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    "other",
    [
        function_call(add, 2, {"x": [1.5]}, c={1, 2}),
        function_call(add, 1, {"x": [1.6]}, c={1, 2}),
        function_call(add, 1, {"x": [1.5]}, c={1, 3}),
        function_call(add, 1, {"x": (1.5,)}, c={1, 2}),
        function_call(add, 1, {"x": [1.5]}, {1, 2}),
        function_call(add, 1, {"x": [1.5]}, d={1, 2}),
        function_call(entry_of, 1, {"x": [1.5]}, c={1, 2}),
    ],
)
def test_key_tells_arguments_and_functions_apart(other):
    assert keyed(other) != keyed(function_call(add, 1, {"x": [1.5]}, c={1, 2}))


def test_key_tells_archives_and_the_rest_apart():
    call = function_call(add, 1)
    assert len({keyed(call), keyed(call, b"zip"), keyed(call, b"zap"), keyed(call, extra=["modal"])}) == 4


def test_key_tells_results_of_other_tasks_apart():
    """Plain and deep inside an argument; by what they are, not by where they lie."""
    results = [StepResult.signed(entry_of({number}), "") for number in (1, 2)]
    again = StepResult.signed(entry_of({1}), "")
    assert keyed(function_call(add, results[0])) == keyed(function_call(add, again))
    assert keyed(function_call(add, results[0])) != keyed(function_call(add, results[1]))
    assert keyed(function_call(add, [{"a": results[0]}])) != keyed(function_call(add, [{"a": results[1]}]))


def test_key_of_commands():
    def command(**changes):
        fields = {"argv": ["a", "b"], "inputs": {"x": 1}, "outputs": ["y"], "workdir": None, **changes}
        return keyed(CommandCall(**fields))

    changes: list[dict[str, Any]] = [
        {},
        {"argv": ["a b"]},
        {"inputs": {"x": 2}},
        {"outputs": []},
        {"workdir": "w"},
    ]
    assert len({command(**change) for change in changes}) == len(changes)
    assert command() == command()


# -- arguments


def test_an_argument_that_cannot_be_sent_is_named():
    with pytest.raises(PayloadError, match=r"^b \(a generator\) cannot be sent to the step: .*Pass list"):
        build(function_call(add, 1, (n for n in ())))
    with pytest.raises(PayloadError, match=r"^c \(a generator\)"):
        build(function_call(add, 1, c=(n for n in ())))
    with pytest.raises(PayloadError, match=r"^positional argument 3 \(a generator\)"):
        build(function_call(add, 1, 2, (n for n in ())))


def test_a_large_argument_is_one_part_and_is_stored_once(home):
    """Spilled parts are named by their content: the same argument is written once, whoever sends it."""
    data = b"x" * 100_000
    payload = build(function_call(add, data, data))
    assert len(payload.parts) == 1
    store = open_store(f"file://{home}/store")
    for _ in range(2):
        spilled = spill(payload, lambda: store, 10_000)
        assert spilled.inline_bytes < 10_000
        assert spilled.digest == payload.digest
    assert len(list(store.list(""))) == 1


def test_a_part_that_lost_its_end_is_written_again(home):
    """A host that lost power leaves such a file, which every later step with this argument would refuse."""
    payload = build(function_call(add, b"x" * 100_000, 1))
    store = open_store(f"file://{home}/store")
    for _ in range(2):
        spilled = spill(payload, lambda: store, 10_000)
        (one,) = (one for part in spilled.parts.values() for one in part.ranges)
        path = store.path_of(one.uri)
        assert hashlib.sha256(store.read(path, one.size)).hexdigest() in path
        (store.folder / path).write_bytes(b"")


def test_spilling_stops_as_soon_as_the_rest_fits(home):
    payload = build(function_call(add, b"x" * 100_000, b"y" * 60_000))
    store = open_store(f"file://{home}/store")
    spilled = spill(payload, lambda: store, 80_000)
    assert sorted((not part.ranges, part.size) for part in spilled.parts.values()) == [
        (False, 100_000),
        (True, 60_000),
    ]
    assert spill(payload, lambda: pytest.fail("no store is needed"), 10**6) == payload


def test_results_of_other_tasks_are_passed_on_unread(home):
    """The same result twice in one call is one reference; its file need not even be readable here."""
    entry = {"codec": "pickle", "segments": [{"sha256": "0" * 64, "size": 10**9, "name": "big.bin"}]}
    result = StepResult.signed(entry, f"file://{home}/store/results/x")
    payload = build(function_call(add, result, [result, {"deep": result}]))
    manifest = json.loads(payload.manifest)
    assert len(manifest["refs"]) == 1
    (part,) = payload.parts.values()
    assert part.ranges == [ObjectRange(f"file://{home}/store/results/x/big.bin", 10**9)]
    assert payload.inline_bytes < 3000


@pytest.mark.parametrize(
    "uri", ["file:///etc", "file:///tmp/../etc", "s3://other", "file://{home}/store/../secrets"]
)
def test_results_outside_the_stores_are_not_passed_on(home, uri):
    entry = {"codec": "bytes", "segments": [{"sha256": "0" * 64, "size": 1, "name": "x"}]}
    with pytest.raises(StoreError, match="outside the configured stores"):
        build(function_call(add, StepResult.signed(entry, uri.format(home=home))))


def test_a_reference_that_nobody_signed_is_not_passed_on(home):
    """Whoever may write XComs would read any object of the stores with one."""
    (home / "store").mkdir(exist_ok=True)
    (home / "store" / "x").write_bytes(b"1")
    entry = {"codec": "bytes", "segments": [{"sha256": "0" * 64, "size": 1, "name": "x"}]}
    result = StepResult(entry, f"file://{home}/store")
    for read in (result.load, lambda: build(function_call(add, result))):
        with pytest.raises(IntegrityError, match="the reference was not signed by this deployment"):
            read()


def test_an_error_does_not_tell_which_bytes_were_found(home):
    """With the digest of a single byte, the error would say which byte it is."""
    (home / "store").mkdir(exist_ok=True)
    (home / "store" / "x").write_bytes(b"1")
    entry = {"codec": "bytes", "segments": [{"sha256": "0" * 64, "size": 1, "name": "x"}]}
    with pytest.raises(
        IntegrityError, match=f"does not have the SHA-256 {'0' * 64} that was recorded"
    ) as told:
        StepResult.signed(entry, f"file://{home}/store").load()
    assert hashlib.sha256(b"1").hexdigest() not in str(told.value)


# -- what was submitted and not yet started


@pytest.fixture
def submitted(home):
    """A job whose submit was killed before anything ran: its folder is there, whole."""
    import io
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("helper.py", "")
    hook = LocalStepHook(folder=home / "jobs")
    payload = build(function_call(add, b"x" * 60_000, 1), setup=Setup(archive=archive.getvalue()))
    spec = StepSpec("s-job", "n", {}, digest=payload.digest, result_uri=f"file://{home}/store/results")
    folder = JobFolder(home / "jobs" / "s-job")
    start, JobFolder.start = JobFolder.start, lambda self, env: None
    try:
        hook.submit(spec, payload)
    finally:
        JobFolder.start = start
    return hook, spec, payload, folder.path / "in"


@pytest.mark.parametrize("file", ["manifest.json", "code.zip", "argument"])
def test_a_changed_payload_is_not_started(home, submitted, file):
    """The job's request holds the digest of the manifest, which holds those of all parts."""
    hook, spec, payload, folder = submitted
    name = next(name for name in payload.parts if name != "code.zip") if file == "argument" else file
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    handle = hook.submit(spec, payload)
    wait(hook, handle)
    found = read_outcome(hook.outcome(handle), "s-job", "n")
    assert found["failure"]["category"] == Category.INFRA.value
    assert "The step was not started" in found["failure"]["summary"]
    assert "does not have the SHA-256" in found["failure"]["summary"]


def test_an_unchanged_payload_is_started(home, submitted):
    hook, spec, *_ = submitted
    handle = hook.submit(spec, build(function_call(add, 1, 2)))  # other bytes, same job: the first ones count
    wait(hook, handle)
    found = read_outcome(hook.outcome(handle), "s-job", "n")
    assert "unsupported operand" in str(found) or "can't concat" in str(found)


def test_a_changed_outcome_is_refused(home):
    """The digest comes from the job's supervisor, not from the file; a large outcome is only there."""
    hook = LocalStepHook(folder=home / "jobs")
    payload = build(function_call(lambda a: ["x" * 200] * 4000, 1), split="list")
    spec = StepSpec("s-job", "n", {}, digest=payload.digest, result_uri=f"file://{home}/store/results")
    handle = hook.submit(spec, payload)
    wait(hook, handle)
    assert len(to_xcom(read_outcome(hook.outcome(handle), "s-job", "n")["result"])) == 4000
    path = home / "jobs" / "s-job" / "out" / "outcome.json"
    path.write_bytes(path.read_bytes().replace(b"success", b"failure", 1))
    with pytest.raises(IntegrityError, match="its bytes changed after the step wrote it"):
        read_outcome(hook.outcome(handle), "s-job", "n")


def wait(hook, handle):
    wait_until(lambda: hook.status([handle])[handle].state, f"{handle} to end", holds=lambda s: s.is_terminal)


# -- outcomes


def test_a_changed_outcome_is_refused_before_it_is_read():
    data = outcome(value=entry_of(1))
    with pytest.raises(IntegrityError, match="its bytes changed after the step wrote it"):
        read_outcome(report(data, digest="0" * 64), "s-job", "n")


@pytest.mark.parametrize(("job", "nonce"), [("s-other", "n"), ("s-job", "other")])
def test_the_outcome_of_another_job_is_refused(job, nonce):
    """Replayed, with a digest that is right."""
    with pytest.raises(IntegrityError, match=r"it belongs to job 's-job' \(nonce 'n'\) and not to 's-"):
        read_outcome(report(outcome(value=entry_of(1))), job, nonce)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b"\xff", b'"text"', b"1"])
def test_what_is_no_outcome_is_refused(data):
    with pytest.raises(IntegrityError, match=r"outcome.json is damaged|the outcome (is|has no)"):
        read_outcome(report(data), "s-job", "n")


@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_an_outcome_that_is_nested_deeply_is_refused(depth):
    data = b'{"protocol": 1, "more": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(IntegrityError, match=r"outcome.json is damaged: its JSON is nested|it is no JSON"):
        read_outcome(report(data), "s-job", "n")


def test_an_outcome_that_is_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(IntegrityError, match=r"it has 8\.5 MiB, and an outcome has at most 8 MiB"):
        read_outcome(report(b"[" * int(8.5 * (1 << 20))), "s-job", "n")


def test_values_that_are_too_large_for_an_outcome_are_refused():
    """They would be stored in Airflow's database. The runner makes segments of them."""
    large = Encoded("bytes", [[b"x" * 300_000]]).to_entry(lambda *_: {"name": ""}, 1 << 20)
    fits, too_many = outcome(values=[large] * 3, split="list"), outcome(values=[large] * 6, split="list")
    assert read_outcome(report(fits), "s-job", "n")["result"]
    text = r"the values in it have 1\.72 MiB, and the runner writes at most 1 MiB into an outcome"
    with pytest.raises(IntegrityError, match=text):
        read_outcome(report(too_many), "s-job", "n")


def test_an_outcome_of_another_protocol_is_refused():
    with pytest.raises(IntegrityError, match="protocol 99"):
        read_outcome(report(outcome(protocol=99)), "s-job", "n")


def test_without_an_authenticated_digest_only_data_is_taken():
    """Where the service has no channel that the step's storage cannot forge."""
    found = read_outcome(report(outcome(value=entry_of(b"data")), digest=None), "s-job", "n")
    assert to_xcom(found["result"]).load() == b"data"
    with pytest.raises(StepConfigError, match="only pickle can hold, and this backend reports no trusted"):
        read_outcome(report(outcome(value=entry_of(range(3))), digest=None), "s-job", "n")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        -(2**63),
        2**63 - 1,
        1.5,
        "",
        "grüße \U0001f980",
        [1, [2]],
        {"a": {"b": None}},
        (1, (2,)),
        {"()": [1]},
    ],
    ids=repr,
)
def test_small_json_is_handed_over_as_it_is(value):
    found = read_outcome(report(outcome(value=entry_of(value))), "s-job", "n")
    handed = to_xcom(json.loads(json.dumps(found["result"])))
    assert (type(handed), handed) == (type(value), value)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        10**400,
        "a\0b",
        "\ud83e",
        ["x", {"\0": 1}],
        {"__classname__": "os.system"},
        {"__id__": 1},
        [{"__type": "dict", "__var": {}}],
    ],
    ids=ascii,
)
def test_json_that_airflow_would_change_or_refuse_becomes_a_reference(value):
    """Its messages take 64 bits, PostgreSQL no NUL, UTF-8 no lone surrogate, its serializer no such keys."""
    found = read_outcome(report(outcome(value=entry_of(value))), "s-job", "n")
    handed = to_xcom(json.loads(json.dumps(found["result"])))
    assert isinstance(handed, StepResult)
    assert json.dumps(handed.serialize(), allow_nan=False).isascii()
    assert handed.load() == value


def test_nothing_returned_is_none():
    assert to_xcom(read_outcome(report(outcome()), "s-job", "n")["result"]) is None
    assert to_xcom(read_outcome(report(outcome(split="dict", values={})), "s-job", "n")["result"]) == {}
    assert to_xcom(read_outcome(report(outcome(split="list", values=[])), "s-job", "n")["result"]) == []


def test_a_large_result_leaves_little_in_the_record(home):
    """A thousand references: 64 KB are what Airflow wants under one key of its task state."""
    values = {f"key_{number}": entry_of({number}, limit=1) for number in range(1000)}
    data = outcome(split="dict", values=values)
    found = read_outcome(report(data, f"file://{home}/store/results/job"), "s-job", "n")
    assert len(json.dumps(found)) < 1000
    handed = to_xcom(found["result"])
    assert list(handed) == list(values)
    assert handed["key_7"].entry == values["key_7"]
    again = read_outcome(report(data, f"file://{home}/store/results/job"), "s-job", "n")
    assert again == found, "a second worker that collects finds it there"


def test_a_collected_result_that_was_changed_is_refused(home):
    values = [entry_of({number}, limit=1) for number in range(1000)]
    found = read_outcome(
        report(outcome(split="list", values=values), f"file://{home}/store/results/job"), "s-job", "n"
    )
    (file,) = (home / "store").rglob("*.json")
    file.write_bytes(file.read_bytes().replace(b"key", b"kex").replace(b"0", b"1", 1))
    with pytest.raises(IntegrityError, match="changed after it was written"):
        to_xcom(found["result"])


def test_without_a_store_a_large_result_stays_in_the_record():
    """It is then Airflow's to hold; a step without a store has to work."""
    values = [entry_of("x" * 50) for _ in range(1000)]
    found = read_outcome(report(outcome(split="list", values=values), ""), "s-job", "n")
    assert to_xcom(found["result"]) == ["x" * 50] * 1000


# -- references


class Forest:
    """A value that only a pickle can hold."""

    def __eq__(self, other):
        return isinstance(other, Forest)

    __hash__ = None


def test_a_reference_that_was_changed_is_refused():
    result = StepResult.signed(entry_of(Forest()), "", "s-job", "train")
    assert result.load() == Forest()
    for field, value in {
        "base_uri": "file:///x",
        "host": "other",
        "mac": "0",
        "entry": entry_of({2: Forest()}),
        "job": "s-other",
        "step": "other",
    }.items():
        changed = StepResult.from_json({**result.to_json(), field: value})
        with pytest.raises(IntegrityError, match="was not signed by this deployment"):
            changed.load()


def test_a_reference_in_an_xcom_is_for_people():
    """The last field is opaque; address and job stay in clear, because ``gc`` finds results by them."""
    uri = "s3://bucket/results/_/dag/run/train/-1/s-dag-train-0123456789ab"
    entry = {**entry_of(Forest(), limit=1), "about": "pandas.DataFrame 2000 x 13"}
    data = StepResult.signed(entry, uri, "s-dag-train-0123456789ab", "train").serialize()
    opaque = data.pop("reference")
    assert data == {
        "about": f"pandas.DataFrame 2000 x 13, {entry['segments'][0]['size']} B",
        "step": "train",
        "job": "s-dag-train-0123456789ab",
        "base_uri": uri,
    }
    assert next(iter(data)) == min(data) == "about", "rendered arguments are sorted"
    assert re.fullmatch("[A-Za-z0-9+/=]+", opaque)
    assert StepResult.deserialize({**data, "reference": opaque}, 1).entry == entry


def test_a_reference_is_not_longer_than_its_value_in_base64():
    import random

    entry = entry_of(random.Random(1).randbytes(30_000))
    assert len(StepResult.signed(entry, "").serialize()["reference"]) < 1.05 * len(
        entry["segments"][0]["data"]
    )


def test_the_json_of_a_value_stands_beside_its_reference():
    """A plain value where no type would be lost, else a reference that people can read."""
    import datetime

    import numpy as np

    value = {"auc": np.float64(0.93), "n": np.int64(3), "on": datetime.date(2024, 2, 29), "tags": {"b", "a"}}
    found = read_outcome(report(outcome(value=entry_of(value))), "s-job", "n", "train")
    assert "auc" not in json.dumps(found), "the record has it once"
    handed = to_xcom(found["result"])
    assert handed.serialize()["value"] == {"auc": 0.93, "n": 3, "on": "2024-02-29", "tags": ["a", "b"]}
    assert {name: type(item) for name, item in handed.load().items()} == {
        "auc": np.float64,
        "n": np.int64,
        "on": datetime.date,
        "tags": set,
    }
    plain = read_outcome(report(outcome(value=entry_of({"auc": 0.93, "t": (1,)}))), "s-job", "n")
    assert to_xcom(plain["result"]) == {"auc": 0.93, "t": (1,)}


def test_mapped_lists_are_plain_element_by_element():
    import numpy as np

    values = [entry_of(one) for one in (0.5, np.float64(0.5), {"a": 1})]
    handed = to_xcom(read_outcome(report(outcome(split="list", values=values)), "s-job", "n")["result"])
    assert [handed[0], handed[2]] == [0.5, {"a": 1}]
    assert handed[1].serialize()["value"] == 0.5


@pytest.mark.parametrize(
    "value", [{1: 2**70}, {1: "a\0b"}, {1: {"__classname__": "os.system"}}, [{"__type": {1}}]]
)
def test_json_that_airflow_would_change_does_not_stand_in_clear(value):
    handed = StepResult.signed(entry_of(value), "")
    assert "value" not in handed.serialize()
    assert handed.load() == value


@pytest.mark.parametrize("depth", [200, 400, 900, 20_000])
def test_json_that_is_nested_too_deeply_does_not_end_the_worker(depth):
    data = b'{"x":' * depth + b"1" + b"}" * depth
    entry = Encoded("json", [[data]]).to_entry(lambda *_: {"name": ""})
    with suppress(IntegrityError):  # Python's own reader has a limit, too
        handed = to_xcom(read_outcome(report(outcome(value=entry)), "s-job", "n")["result"])
        assert not isinstance(handed, StepResult) or handed.serialize()["about"]


def test_what_the_step_says_about_a_value_is_made_printable():
    entry = {**entry_of(1), "about": "\x1b[31mx\0\ny\ud800" + "z" * 500}
    about = StepResult.signed(entry, "").serialize()["about"]
    assert about.isprintable()
    assert len(about) < 250


def test_a_reference_without_a_description_names_its_codec():
    assert re.fullmatch(r"json, \d+ B", StepResult.signed(entry_of({1}), "").about)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"value": {"a": 1}}, "dict of 1 -> XCom"),
        ({"value": 0.5}, "float -> XCom"),
        ({"value": None}, "None"),
        ({"value": Forest()}, "Forest, {} B -> XCom"),
        ({"split": "dict", "values": {"a": 1, "m": Forest()}}, "dict of 2, {} B -> XCom"),
        ({"split": "list", "values": [1, 2]}, "list of 2 -> XCom"),
    ],
)
def test_the_log_says_what_was_returned_and_where_it_is(values, line):
    def entry(value):
        about = {"about": type(value).__name__}
        return {**entry_of(value), **about}

    given = dict(values)
    if "split" in given:
        many = given["values"]
        given["values"] = (
            {k: entry(v) for k, v in many.items()} if isinstance(many, dict) else list(map(entry, many))
        )
    else:
        given["value"] = entry(given["value"])
    size = entry(Forest())["segments"][0]["size"]
    handed = to_xcom(read_outcome(report(outcome(**given)), "s-job", "n")["result"])
    assert said(handed) == line.format(size)


def test_the_log_says_the_address_of_what_was_returned(home):
    entry = {**entry_of(Forest(), limit=1), "about": "Forest"}
    uri = f"file://{home}/store/results/_/d/r/t/-1/s-job"
    handed = to_xcom(read_outcome(report(outcome(value=entry), uri), "s-job", "n")["result"])
    assert said(handed) == f"Forest, {entry['segments'][0]['size']} B -> {uri}"
    several = {"split": "dict", "values": {"m": entry, "n": entry_of(1)}}
    handed = to_xcom(read_outcome(report(outcome(**several), uri), "s-job", "n")["result"])
    assert said(handed) == f"dict of 2, {entry['segments'][0]['size']} B -> {uri}"


def test_a_reference_of_another_deployment_is_refused(monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "one key")
    result = StepResult.signed(entry_of(Forest()), "")
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "another key")
    with pytest.raises(IntegrityError, match=r"not signed by this deployment: .* another key"):
        result.load()


def test_a_reference_prints_what_it_is_and_not_its_bytes():
    result = StepResult.signed(entry_of({"secret"}), "")
    assert repr(result) == f"StepResult(json, {result.size} B, inside the XCom)"
    assert "secret" not in repr(result)
    assert (result == StepResult.signed(entry_of({"secret"}), ""), hash(result)) == (True, hash(result))


def test_pickles_of_the_runner_are_read_under_its_name_here():
    data = pickle.dumps(Encoded, protocol=2).replace(b"airflow_stepop.runner", b"stepop_runner")
    assert loads(data, []) is Encoded


def test_a_class_of_the_dag_file_is_found_here_or_comes_along():
    import cloudpickle

    copy = type("Copy", (), {"__module__": "no_such_module"})
    by_value = cloudpickle.dumps(copy)

    class Reduced:
        def __init__(self, module, name):
            self.where = module, name

        def __reduce__(self):
            from airflow_stepop.runner.pickling import dag_class

            return dag_class, (*self.where, by_value)

    def load(module, name):
        data = pickle.dumps(Reduced(module, name), protocol=2)
        return loads(data.replace(b"airflow_stepop.runner.pickling", b"stepop_runner.pickling"), [])

    assert load(__name__, "Any") is not copy
    assert load("pickle", "Pickler") is pickle.Pickler
    assert load("gone", "Copy").__name__ == "Copy"


def test_a_module_that_is_missing_here_is_explained():
    data = pickle.dumps(Encoded, protocol=2).replace(b"airflow_stepop.runner", b"no_such_package__xyz")
    entry = Encoded("pickle", [[data]]).to_entry(lambda *_: {"name": ""})
    with pytest.raises(ResultNotLoadedError) as caught:
        StepResult.signed({**entry, "about": "Forest"}, "", "s-job", "train").load()
    assert str(caught.value) == (
        f"A result of the step 'train' (Forest, {len(data)} B) cannot be loaded here: "
        "ModuleNotFoundError: No module named 'no_such_package__xyz'. "
        "The module 'no_such_package__xyz' is missing where this task runs: install its package there, "
        "read the result in a step (@task.remote_step) whose image has it, "
        "or let the step return numbers, texts, lists and dicts, which need no package"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_class_that_another_version_has_is_explained():
    data = pickle.dumps(Encoded, protocol=2).replace(b"Encoded", b"Forests")
    entry = Encoded("pickle", [[data]]).to_entry(lambda *_: {"name": ""})
    with pytest.raises(
        ResultNotLoadedError, match=r"AttributeError: .*'Forests'.* A package of the value may have"
    ):
        StepResult.signed(entry, "").load()


VIEWS = {
    "bytes": memoryview(b"abc"),
    "writable": memoryview(bytearray(b"abc")),
    "empty": memoryview(b""),
    "numbers": memoryview(array.array("d", [1.0, 2.0])),
    "two dimensions": memoryview(b"abcdef").cast("B", (2, 3)),
    "slice": memoryview(b"abcdef")[::2],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_memoryview_stays_one(view):
    call = function_call(add, {"view": view})
    (entry,) = json.loads(build(call).manifest)["args"]
    found = decode_entry(entry, None, loads)["view"]
    assert type(found) is memoryview
    assert (found, found.format, found.shape, found.readonly) == (
        view,
        view.format,
        view.shape,
        view.readonly,
    )


def test_a_memoryview_of_structures_is_refused():
    import numpy as np

    with pytest.raises(
        PayloadError, match=r"a \(a memoryview\) cannot be sent to the step: cannot pickle a memoryview of"
    ):
        build(function_call(add, memoryview(np.zeros(2, "i4,f8"))))
