"""Receipts: which texts are one, and how the outcome is found with one."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.hooks.common.receipts import (
    Receipt,
    find_receipt,
    parse_receipt,
    receipt_of,
    receipt_text,
    report,
    signed_receipt,
    with_receipt,
)
from airflow_stepop.job import JobHandle
from airflow_stepop.runner.protocol import RECEIPT_PREFIX

HANDLE = JobHandle("cloud", None, "here", "j-1", "j-1")


def text(digest="d", **fields):
    return json.dumps({"protocol": 1, "digest": digest, "size": 3, **fields})


def test_a_receipt_survives_json():
    carried = parse_receipt(text(outcome=base64.b64encode(b"abc").decode()))
    assert carried == Receipt("d", 3, b"abc")
    assert parse_receipt(json.dumps(carried.to_json())) == carried
    assert parse_receipt(json.dumps(Receipt("d", 3).to_json())) == Receipt("d", 3)


@pytest.mark.parametrize(
    "damaged", ["", "hello", "[]", '{"digest": 1}', text(outcome="%"), text()[:-4], "[" * 100_000, '{"a": 1}']
)
def test_a_text_that_is_no_receipt_gives_none(damaged):
    assert parse_receipt(damaged) is None


def test_an_outcome_that_is_too_large_is_not_read():
    def read(receipt):
        raise AssertionError("it was read")

    with pytest.raises(
        OutcomeLostError, match=r"wrote an outcome of 9 MiB, and an outcome has at most 8 MiB"
    ):
        report(HANDLE, Receipt("d", 9 << 20), "", read)


def test_a_damaged_receipt_is_an_error_where_one_is_required():
    with pytest.raises(IntegrityError, match="the receipt of j is damaged"):
        Receipt.from_json({"digest": "d", "outcome": "%"}, "the receipt of j")


def test_the_last_receipt_of_a_log_counts():
    lines = [
        f"{RECEIPT_PREFIX}{text('first')}",
        "hello",
        f"{RECEIPT_PREFIX}{text('last')}",
        text("no prefix"),
    ]
    assert find_receipt(lines) == Receipt("last", 3)
    assert find_receipt([*lines, f"{RECEIPT_PREFIX}{text()[:-4]}"]) == Receipt("last", 3)
    assert find_receipt(["hello"]) is None
    assert find_receipt([text("a"), text("b")], prefix="") == Receipt("b", 3)


def test_the_outcome_is_in_the_receipt_or_where_it_is_fetched():
    def read(receipt):
        return b"x" * receipt.size

    assert report(HANDLE, Receipt("d", 3, b"abc"), "s3://b/r", read).data == b"abc"
    fetched = report(HANDLE, Receipt("d", 3), "s3://b/r", read)
    assert (fetched.digest, fetched.data, fetched.base_uri) == ("d", b"xxx", "s3://b/r")


def test_an_outcome_that_is_not_there_is_lost():
    def gone(receipt):
        raise FileNotFoundError(2, "no such file", "/out/outcome.json")

    with pytest.raises(OutcomeLostError, match="cloud job j-1 left no outcome"):
        report(HANDLE, None, "", gone)
    with pytest.raises(OutcomeLostError, match=r"is gone: /out/outcome\.json"):
        report(HANDLE, Receipt("d", 3), "", gone)


# -- handed over


def test_a_receipt_is_handed_over_with_the_handle():
    found = receipt_text([RECEIPT_PREFIX + text("first"), "a line", RECEIPT_PREFIX + text("last")])
    handle = with_receipt(HANDLE, signed_receipt(HANDLE, found))
    again = JobHandle.from_json(json.loads(json.dumps(handle.to_json())))
    assert again == HANDLE
    assert receipt_of(again) == Receipt("last", 3)


def test_without_a_receipt_nothing_is_handed_over():
    assert receipt_text(["a line"]) is None
    assert signed_receipt(HANDLE, "a line") is None
    assert receipt_of(HANDLE) is None
    assert with_receipt(HANDLE, None).detail == {}


@pytest.mark.parametrize(
    "forge",
    [
        lambda signed: {**signed, "text": text("mine")},
        lambda signed: {**signed, "mac": "0" * 64},
        lambda signed: {**signed, "mac": "\udcff"},
        lambda signed: {"text": signed["text"]},
        lambda signed: {"mac": signed["mac"], "text": 7},
        lambda signed: signed["text"],
        lambda signed: [signed],
    ],
)
def test_a_forged_receipt_is_ignored(forge):
    signed = signed_receipt(HANDLE, text())
    assert receipt_of(with_receipt(HANDLE, signed)) is not None
    assert receipt_of(with_receipt(HANDLE, forge(signed))) is None


@pytest.mark.parametrize("other", [{"name": "j-2"}, {"id": "j-2"}, {"scope": "there"}, {"backend": "b"}])
def test_a_receipt_of_another_job_is_ignored(other):
    assert receipt_of(with_receipt(replace(HANDLE, **other), signed_receipt(HANDLE, text()))) is None


def test_a_receipt_that_was_signed_with_another_key_is_ignored(monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "one key")
    signed = signed_receipt(HANDLE, text())
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "another key")
    assert receipt_of(with_receipt(HANDLE, signed)) is None


def test_a_large_receipt_is_handed_over_without_its_outcome():
    """The outcome's file is read instead."""
    large = text(outcome=base64.b64encode(b"x" * 10_000).decode())
    signed = signed_receipt(HANDLE, large)
    assert len(json.dumps(signed)) < 300
    assert receipt_of(with_receipt(HANDLE, signed)) == Receipt("d", 3)
    assert signed_receipt(HANDLE, text("d" * 5000)) is None
