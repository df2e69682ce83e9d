"""Transfers between a bucket and a step that has only the standard library and pre-signed addresses."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import time
from dataclasses import replace

import pytest

from airflow_stepop.core.host import host_id
from airflow_stepop.exceptions import IntegrityError, StepConfigError, WrongHostError
from airflow_stepop.hooks.common import input_files as input_files_module
from airflow_stepop.hooks.common import signing
from airflow_stepop.hooks.common.input_files import InputFile, input_files
from airflow_stepop.job import ObjectRange, Part, Payload, StepSpec
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.payload.spill import make_reachable
from airflow_stepop.results import StepResult
from airflow_stepop.runner import remote_parts, urls
from airflow_stepop.runner.protocol import LOCATIONS, UPLOADS
from airflow_stepop.stores import obstore_calls
from airflow_stepop.stores.configured import configured_stores, open_store
from airflow_stepop.stores.gcs import GcsAccess
from airflow_stepop.stores.pieces import read_ranges
from airflow_stepop.stores.s3 import AwsAccess
from tests.support.buckets import seldom_on_gcs
from tests.support.memory import at_most
from tests.support.waiting import PATIENCE_S

MIB = 1 << 20


def overwrite(store, path, change):
    """Change an object in the bucket without telling the code under test."""
    import obstore

    data = obstore.get(store.client, path).bytes().to_bytes()
    obstore.put(store.client, path, bytes(change(bytearray(data))))


def flipped(data):
    data[len(data) // 2] ^= 1
    return data


def table(files, name):
    return json.loads(gzip.decompress(files[name].data))


@pytest.fixture
def small_pieces(monkeypatch):
    """Make the pieces small, as if each result were much larger."""
    monkeypatch.setattr(input_files_module, "PIECES", 10)
    monkeypatch.setattr(input_files_module, "LEAST_PIECE_BYTES", MIB // 4)
    for access in (AwsAccess, GcsAccess):
        monkeypatch.setattr(access, "largest_put_bytes", 4 * MIB)


# -- there and back


def reverse(value):
    return value[::-1]


def length(value):
    return len(value)


def test_large_bytes_are_read_into_the_final_object(bucket, tmp_path):
    """Neither the worker's nor the job's reading threads keep a copy of a part."""
    data = random.Random(1).randbytes(MIB) * 64
    segment = {"name": "x", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    bucket.put("x", data)
    (url,) = bucket.sign("GET", ["x"], time.time() + 600)
    readers = (
        lambda: read_ranges([ObjectRange(bucket.uri("x"), len(data))], segment, codec="bytes"),
        lambda: remote_parts.read_ranges(str(tmp_path), url, segment, "bytes"),
    )
    for read in readers:
        with at_most(1.2 * len(data)):
            found = read()
        assert found == data
        assert type(found) is bytes


def test_arguments_and_results_go_through_the_store(steps, bucket):
    data = random.Random(1).randbytes(3 * MIB)
    result = steps.run(bucket, reverse, data)
    assert isinstance(result, StepResult)
    assert result.load() == data[::-1]
    assert [path.split("/")[0] for path in sorted(bucket.list(""))] == ["parts", "results"]
    assert steps.run(bucket, length, result) == len(data), "the next step reads it where it lies"


def test_references_of_references(steps, bucket):
    data = random.Random(2).randbytes(MIB)
    first = steps.run(bucket, reverse, data)
    second = steps.run(bucket, lambda one, other: {"a": [one, other]}, first, [first])
    third = steps.run(bucket, lambda nested: nested["a"][1][0][:100_000], second)
    assert third.load() == data[::-1][:100_000]


@seldom_on_gcs
@pytest.mark.parametrize("count", [1, 7, 300])
def test_many_values_are_one_stream(steps, bucket, small_pieces, count):
    """Each reference leads exactly to its own value, wherever the stream was cut."""
    sizes = [50_000 + 10_007 * (index % 13) for index in range(count)]
    results = steps.run(
        bucket, lambda sizes: [bytes([i % 251]) * size for i, size in enumerate(sizes)], sizes, split="list"
    )
    for index, (size, result) in enumerate(zip(sizes, results, strict=True)):
        value = result.load() if isinstance(result, StepResult) else result
        assert value == bytes([index % 251]) * size
    assert len([path for path in bucket.list("results") if path.endswith("0.bin")]) == 1
    assert len([path for path in bucket.list("results") if path.endswith(".bin")]) <= 10


def test_a_value_of_several_pieces(steps, bucket, small_pieces):
    data = random.Random(3).randbytes(9 * MIB + 12_345)
    result = steps.run(bucket, reverse, data)
    assert {one.size for one in result.ranges()} >= {-(-(result.size) // 10)}
    assert len(result.ranges()) >= 10
    assert result.load() == data[::-1]
    assert steps.run(bucket, reverse, result).load() == data


def test_a_result_that_is_too_large_is_refused(steps, bucket, small_pieces):
    steps.finish(*steps.prepare(bucket, lambda: bytes(41 * MIB)))
    assert steps.failure["category"] == "user_error"
    assert "its result has 41 MiB, and 40 MiB are the limit" in steps.failure["summary"]


@seldom_on_gcs
def test_files_of_a_command(steps, bucket, small_pieces):
    data = random.Random(4).randbytes(3 * MIB)
    source = steps.run(bucket, reverse, data)
    call = CommandCall(
        argv=["sh", "-c", "cp in.bin out.bin; head -c 100000 in.bin > small.bin"],
        inputs={"in.bin": source},
        outputs=["out.bin", "small.bin"],
    )
    spec, _ = steps.prepare(bucket, reverse, 1)
    payload = build_payload(call, job=spec.name, nonce=steps.nonce, split="no", is_result_wanted=True)
    outputs = steps.finish(replace(spec, digest=payload.digest), payload)
    assert outputs["out.bin"].load() == data[::-1]
    assert outputs["small.bin"].load() == data[::-1][:100_000]


def test_a_large_collected_result_goes_to_the_bucket_too(steps, bucket):
    spec, payload = steps.prepare(bucket, lambda: [{i: "x" * 1000} for i in range(100)], split="list")
    results = steps.finish(spec, payload)
    assert results[99].load() == {99: "x" * 1000}
    assert any(".collected-" in path for path in bucket.list("results"))
    outcome = steps.hook.outcome(steps.hook.lookup(spec))
    stored = read_outcome(outcome, spec.name, steps.nonce)["result"]["stored"]
    overwrite(bucket, bucket.path_of(stored["uri"]), flipped)
    with pytest.raises(IntegrityError, match="changed after it was written"):
        steps.finish(spec, payload)


# -- changed, missing and late objects


def test_a_changed_piece_is_refused_on_both_sides(steps, bucket, small_pieces):
    result = steps.run(bucket, reverse, random.Random(5).randbytes(5 * MIB))
    overwrite(bucket, bucket.path_of(result.ranges()[-1].uri), flipped)
    words = r"does not have the SHA-256 \w+ that was recorded"
    with pytest.raises(IntegrityError, match=words):
        result.load()
    steps.finish(*steps.prepare(bucket, length, result))
    assert re.search(words, steps.failure["summary"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "bytes and not the"),
        (lambda data: data + b"!", "bytes and not the"),
        (lambda data: b"", "bytes and not the|ends before byte"),
        (None, "HTTP 404 NoSuchKey"),
    ],
)
def test_a_damaged_argument_is_refused(steps, bucket, damage, words):
    spec, payload = steps.prepare(bucket, length, random.Random(6).randbytes(MIB))
    (path,) = bucket.list("parts")
    if damage:
        overwrite(bucket, path, damage)
    else:
        bucket.delete_folder("parts")
    steps.finish(spec, payload)
    assert re.search(words, steps.failure["summary"]), steps.failure


@pytest.mark.parametrize("ranges", [[], [["a", 0]], [["a", -1, 5]], [[1, 0, 5]], ["a"], {"a": 1}])
def test_strange_ranges_are_refused(steps, bucket, ranges):
    """Any process that may write to the job's input can change the ranges."""
    spec, payload = steps.prepare(bucket, length, random.Random(15).randbytes(MIB))
    files = input_files(payload, spec)
    files[LOCATIONS] = InputFile([json.dumps({name: ranges for name in payload.parts}).encode()])
    steps.place(spec, files)
    steps.finish(spec, payload)
    assert "The step was not started: part" in steps.failure["summary"]


def test_an_address_for_a_step_that_expects_none(steps, folder):
    """Such a step's runner has no code for addresses."""
    spec, payload = steps.prepare(folder, length, random.Random(16).randbytes(MIB))
    files = input_files(payload, spec)
    files[LOCATIONS] = InputFile(
        [json.dumps({name: "http://127.0.0.1:1/x" for name in payload.parts}).encode()]
    )
    steps.place(spec, files)
    steps.finish(spec, payload)
    assert "is not a path" in steps.failure["summary"]


def test_expired_addresses(steps, bucket, bucket_server, monkeypatch):
    """The failure comes at once and has the server's message, but not the signature."""
    spec, payload = steps.prepare(bucket, reverse, random.Random(7).randbytes(20 * MIB))
    monkeypatch.setattr(signing, "MARGIN_S", 2.0)
    files = input_files(payload, replace(spec, timeout_s=0.0, start_timeout_s=0.0))
    spec = replace(spec, timeout_s=100.0, start_timeout_s=0.0)
    steps.place(spec, files)
    time.sleep(3)  # longer than the signature is valid
    begun = time.monotonic()
    steps.finish(spec, payload)
    assert time.monotonic() - begun < urls.RETRY_LIMIT_S / 2, "asking again would go on for longer"
    assert re.search("HTTP (403 AccessDenied|400 ExpiredToken): .*expired", steps.failure["summary"])
    assert bucket_server.signature not in json.dumps(steps.failure) + steps.log(spec)


@seldom_on_gcs
def test_a_result_after_its_addresses_expired(steps, bucket, bucket_server, monkeypatch):
    def slow():
        import os
        import time

        time.sleep(4)  # longer than the signature is valid
        return os.urandom(40_000_000)

    monkeypatch.setattr(signing, "MARGIN_S", 3.0)
    spec, payload = steps.prepare(bucket, slow, start_timeout_s=0.0)
    steps.place(spec, input_files(payload, replace(spec, timeout_s=0.0)))
    steps.finish(spec, payload)
    words = "its result could not be written: HTTP (403 AccessDenied|400 ExpiredToken)"
    assert re.search(words, steps.failure["summary"])
    assert "raise timeout" in steps.failure["hint"]
    assert bucket_server.signature not in json.dumps(steps.failure) + steps.log(spec)


@seldom_on_gcs
@pytest.mark.parametrize("phase", ["spill", "submit", "step", "load"])
def test_a_store_that_is_away_for_some_seconds(steps, connect, gate, bucket_server, phase):
    """Every phase retries, even in the middle of a transfer."""
    store = connect(bucket_server.through(gate.url))
    data = random.Random(8).randbytes(40 * MIB)

    def trouble(now):
        if now == phase:
            gate.shut_after(5 * MIB if now != "submit" else 0, 3)
        if now == "submit" == phase:
            assert gate.was_shut.wait(PATIENCE_S)

    trouble("spill")
    spec, payload = steps.prepare(store, reverse, data)
    trouble("submit")
    trouble("step")
    result = steps.finish(spec, payload)
    assert steps.failure is None, steps.failure
    trouble("load")
    assert result.load() == data[::-1]
    store.delete_folder("")


@seldom_on_gcs
def test_a_long_transfer_logs_its_progress(connect, gate, bucket_server, caplog, monkeypatch):
    from airflow_stepop.runner import threads

    monkeypatch.setattr(threads, "FIRST_LINE_S", 1.0)
    store = connect(bucket_server.through(gate.url))
    gate.shut_after(5 * MIB, 4)
    with caplog.at_level("INFO", "airflow_stepop"):
        store.put_new("x", random.Random(9).randbytes(40 * MIB))
    lines = [record.getMessage() for record in caplog.records]
    assert re.match(r"writing (s3|gs)://steps/.*/x: \d[0-9.]* \w+ of 40 MiB after \d+ s", lines[0])
    found = re.match(r"writing (s3|gs)://steps/.*/x: done, 40 MiB in (\d+) s", lines[-1])
    assert len(lines) < 5 + int(found[2]) / threads.NEXT_LINES_S
    store.delete_folder("")


# -- secrets


def test_addresses_are_in_their_two_files_and_nowhere_else(steps, bucket, bucket_server):
    first = steps.run(bucket, reverse, random.Random(10).randbytes(MIB))
    spec, payload = steps.prepare(bucket, reverse, first)
    files = input_files(payload, spec)
    name = bucket_server.signature
    assert all(f"{name}Signature=" in url for url in table(files, UPLOADS)["urls"].values())
    assert f"{name}Signature=" in json.dumps(table(files, LOCATIONS))
    assert len(files[UPLOADS].data) < (5_000 if name == "X-Amz-" else 25_000), "one of RSA has 256 bytes"
    result = steps.finish(spec, payload)
    handle = steps.hook.lookup(spec)
    outcome = steps.hook.outcome(handle)
    seen = json.dumps(
        [steps.hook.render(spec), handle.to_json(), result.serialize(), payload.manifest.decode()]
    )
    for text in (
        seen,
        payload.manifest.decode(),
        outcome.data.decode(),
        steps.log(spec),
        repr(payload),
        repr(spec),
    ):
        assert name not in text
    folder = steps.folder / spec.name
    holders = {path.name for path in folder.rglob("*") if path.is_file() and name.encode() in unzipped(path)}
    assert holders == {LOCATIONS, UPLOADS}
    assert folder.stat().st_mode & 0o77 == 0, "nobody else on this host can read them"


def unzipped(path):
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


# -- validity of signatures


def expiry(files):
    (url, *_) = table(files, UPLOADS)["urls"].values()
    return int(re.search(r"X-\w+-Expires=(\d+)", url).group(1))


def test_signed_for_the_deadline_and_an_hour(steps, bucket):
    spec, payload = steps.prepare(bucket, length, b"")
    assert abs(expiry(input_files(payload, replace(spec, timeout_s=600, start_timeout_s=300))) - 4500) <= 2
    open_start = expiry(input_files(payload, replace(spec, timeout_s=600)))
    assert abs(open_start - 4200 - 86400) <= 2, "a job may wait for its start"
    longest = input_files(payload, replace(spec, timeout_s=6.5 * 86400))
    assert abs(expiry(longest) - 7 * 86400) <= 2


def test_more_than_a_week_is_refused_with_advice(steps, bucket):
    spec, payload = steps.prepare(bucket, length, b"")
    with pytest.raises(StepConfigError, match=r"more than 7 days.*Lower timeout to 6 days, 21:00:00"):
        input_files(payload, replace(spec, timeout_s=7 * 86400, start_timeout_s=7200))


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
@pytest.mark.filterwarnings("ignore")  # warnings of the Amazon provider
def test_credentials_that_end_before_the_step_are_refused_with_advice(steps, assumed):
    spec, payload = steps.prepare(assumed(DurationSeconds=3 * 3600), length, b"")
    input_files(payload, replace(spec, timeout_s=7000))
    with pytest.raises(StepConfigError, match=r"the credentials of s3://.* expire at .*Lower timeout, give"):
        input_files(payload, replace(spec, timeout_s=7300))


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
def test_a_token_of_unknown_end_is_a_warning(steps, connect, caplog):
    store = connect({"aws_session_token": "token"})
    spec = StepSpec("s-x", "n", {}, result_uri=store.uri("results/x"))
    input_files(Payload(b"", ""), spec)
    assert "a session token with an unknown expiry time" in caplog.text


# -- results in another store


@pytest.fixture
def folder(bucket, home, monkeypatch):
    """A second configured store, in a folder."""
    store = open_store(f"{home}/folder")
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", store.url)
    assert len(configured_stores()) == 2
    return store


@seldom_on_gcs
def test_steps_of_this_host_read_every_store_in_place(steps, bucket, folder):
    data = random.Random(11).randbytes(MIB)
    in_folder = steps.run(folder, reverse, data)
    in_bucket = steps.run(bucket, reverse, in_folder)
    assert in_bucket.base_uri.startswith(bucket.url)
    assert steps.run(folder, lambda a, b: a == b[::-1], in_folder, in_bucket) is True


def payload_of(result):
    call = CommandCall(argv=["true"], inputs={"x": result}, outputs=())
    return build_payload(call, job="s-x", nonce="n", split="no", is_result_wanted=False)


@seldom_on_gcs
def test_a_result_in_a_folder_of_this_host_is_copied_once(steps, bucket, folder):
    """The copy is for a job on another machine."""
    data = random.Random(12).randbytes(40 * MIB)
    payload = payload_of(steps.run(folder, reverse, data))
    for _ in range(2):
        (part,) = make_reachable(payload, bucket, MIB).parts.values()
        (one,) = part.ranges
        assert one.uri.startswith(bucket.uri("parts/"))
        assert one.uri.endswith(part.sha256)
    (copy,) = bucket.objects("parts")
    assert hashlib.sha256(bucket.read(copy.path, copy.size)).hexdigest() == part.sha256
    assert make_reachable(payload_of(steps.run(bucket, reverse, data)), bucket, MIB).parts, (
        "what is in a bucket stays there"
    )
    assert len([*bucket.list("parts")]) == 2


def test_a_changed_file_is_not_copied(steps, bucket, folder):
    result = steps.run(folder, reverse, random.Random(13).randbytes(40 * MIB))
    path = folder.folder / folder.path_of(result.ranges()[0].uri)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="it is not used"):
        make_reachable(payload_of(result), bucket, MIB)
    assert not [*bucket.list("parts")]


def test_a_copy_of_another_size_is_made_again(steps, bucket, folder):
    data = random.Random(15).randbytes(MIB)
    payload = payload_of(steps.run(folder, reverse, data))
    for damage in (b"", b"?"):
        (one,) = next(iter(make_reachable(payload, bucket, MIB).parts.values())).ranges
        path = bucket.path_of(one.uri)
        assert bucket.read(path, one.size) == data[::-1]
        overwrite(bucket, path, lambda _, damage=damage: damage)


def test_a_result_in_a_folder_travels_in_the_request(steps, folder):
    """Without a bucket, a remote job gets it as far as the request can hold it. The job needs no store."""
    data = random.Random(14).randbytes(20 * MIB)
    result = steps.run(folder, reverse, data)
    payload = payload_of(result)
    room = payload.inline_bytes + 20 * MIB
    parts = make_reachable(payload, folder, room).parts.values()
    assert data[::-1] in [part.data for part in parts]
    assert not any(part.ranges for part in parts)
    with pytest.raises(StepConfigError):
        make_reachable(payload, folder, room - 1)
    beside = replace(payload, parts={**payload.parts, "y": Part(hashlib.sha256(b"y").hexdigest(), 1, [b"y"])})
    with pytest.raises(StepConfigError):
        make_reachable(beside, folder, room)
    path = folder.folder / folder.path_of(result.ranges()[0].uri)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="changed after it was written"):
        make_reachable(payload, folder, room)


def test_a_folder_does_not_reach_a_job_with_too_little_room_or_from_another_host(steps, folder):
    result = steps.run(folder, reverse, random.Random(14).randbytes(MIB))
    why = rf"the job cannot read 1 MiB of the step's input: .* in a folder of the host {host_id()} .*\. "
    said = why + r"Set \[stepop\] store to a bucket .* the job itself can carry up to 512 KiB in all"
    with pytest.raises(StepConfigError, match=said):
        make_reachable(payload_of(result), folder, MIB // 2)
    elsewhere = StepResult.signed(result.entry, folder.uri("results/elsewhere"))
    elsewhere.host = "far-away"
    elsewhere.sign()
    with pytest.raises(WrongHostError, match="was written on the host far-away"):
        payload_of(elsewhere)


def test_parts_with_several_places_are_copied_into_one(steps, bucket, folder):
    folder.put_new("a", b"0123456789")
    ranges = [ObjectRange(folder.uri("a"), 3, 7), ObjectRange(folder.uri("a"), 10)]
    part = Part(hashlib.sha256(b"7890123456789").hexdigest(), 13, ranges=ranges)
    (copied,) = make_reachable(Payload(b"", "", {"x": part}), bucket, MIB).parts.values()
    assert bucket.read(bucket.path_of(copied.ranges[0].uri), 13) == b"7890123456789"


def test_connections_that_close_before_the_request_are_retried(monkeypatch):
    """A proxy accepts every connection and closes it, in front of a store that restarts."""
    monkeypatch.setattr(obstore_calls, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(obstore_calls, "_LONGEST_PAUSE_S", 0.001)
    dropped = OSError("hyper::Error(Canceled, connection was not ready)")
    errors = [*[dropped] * 50, OSError("no such bucket")]

    def ask():
        raise errors.pop(0)

    with pytest.raises(OSError, match="no such bucket"):
        obstore_calls.again(ask)
    assert errors == []
    monkeypatch.setattr(obstore_calls, "RETRY_LIMIT_S", 0.0)
    errors.append(dropped)
    with pytest.raises(OSError, match="not ready"):
        obstore_calls.again(ask)
