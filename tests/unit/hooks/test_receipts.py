"""Receipts: which texts are one, and how the outcome is found with one."""

from __future__ import annotations

import base64
import json

import pytest

from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.hooks.common.receipts import Receipt, find_receipt, parse_receipt, report
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
