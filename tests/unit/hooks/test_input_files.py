"""The files in the runner's input folder. ``unit/stores/test_transfer.py`` uses a real bucket."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.signing import MARGIN_S, START_ALLOWANCE_S
from airflow_stepop.job import ObjectRange, Part, Payload, StepSpec
from airflow_stepop.runner.protocol import CHECKPOINT, LOCATIONS, MANIFEST, RUNNER, SECRETS, UPLOADS
from airflow_stepop.stores.s3 import AwsAccess

WEEK_S = 7 * 86400.0
MOUNTS = {"s3://": "/mnt/s3/"}
IN = "s3://data/stepop/in"


@pytest.fixture(autouse=True)
def store(monkeypatch):
    """A bucket that no test connects to: signing needs keys and no server."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "s3://data/stepop")
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def payload(*ranges):
    return Payload(b"{}", "d" * 64, {"arg": Part("0" * 64, 6, ranges=ranges)} if ranges else {})


def spec(**fields):
    return StepSpec("s-x", "abc", {}, digest="d" * 64, **fields)


def test_a_mounted_bucket_needs_no_signature():
    """So a step may run for longer than a signature is valid."""
    whole, parts = "s3://data/stepop/in%20put", "s3://data/stepop/parts"
    step = spec(timeout_s=4 * WEEK_S, result_uri="s3://data/stepop/r", checkpoint_uri="s3://data/stepop/c")
    files = input_files(payload(ObjectRange(whole, 6)), step, MOUNTS)
    assert set(files) == {MANIFEST, RUNNER, LOCATIONS}
    assert json.loads(files[LOCATIONS].data) == {"arg": "/mnt/s3/data/stepop/in put"}
    files = input_files(payload(ObjectRange(parts, 2, 0), ObjectRange(parts, 4, 8)), step, MOUNTS)
    path = "/mnt/s3/data/stepop/parts"
    assert json.loads(files[LOCATIONS].data) == {"arg": [[path, 0, 2], [path, 8, 4]]}


def test_a_bucket_that_is_not_mounted_is_signed_for():
    step = spec(timeout_s=60.0, result_uri="s3://data/stepop/r")
    files = input_files(payload(ObjectRange("s3://data/stepop/in", 6)), step, {"gs://": "/gcs/"})
    assert set(files) == {MANIFEST, RUNNER, LOCATIONS, UPLOADS}
    table = json.loads(gzip.decompress(files[LOCATIONS].data))
    assert table["arg"].startswith("https://")
    assert "X-Amz-Signature" in table["arg"]
    with pytest.raises(StepConfigError, match="at most 7 days"):
        input_files(payload(), spec(timeout_s=4 * WEEK_S, result_uri="s3://data/stepop/r"))


def test_a_put_has_the_headers_and_the_limit_of_its_store(monkeypatch):
    monkeypatch.setattr(AwsAccess, "put_headers", lambda self: {"x-of-the-store": "yes"})
    files = input_files(payload(), spec(timeout_s=60.0, result_uri="s3://data/stepop/r"))
    table = json.loads(gzip.decompress(files[UPLOADS].data))
    assert table["headers"] == {"x-of-the-store": "yes"}
    assert table["most_bytes"] == 5 * 1024**3
    assert CHECKPOINT not in files


def test_a_folder_that_the_job_does_not_see_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}")
    part = ObjectRange(f"file://{tmp_path}/in", 6)
    files = input_files(payload(part), spec(timeout_s=60.0))
    assert json.loads(files[LOCATIONS].data) == {"arg": f"{tmp_path}/in"}
    with pytest.raises(StepConfigError, match="is not a bucket"):
        input_files(payload(part), spec(timeout_s=60.0), {"gs://": "/gcs/"})


def test_each_file_says_whether_it_is_secret():
    """Secrets and signed addresses are; code, arguments and paths are not."""
    step = spec(timeout_s=60.0, result_uri="s3://data/stepop/r")
    parts = {"code.zip": Part("0" * 64, 4, [b"co", b"de"]), **payload(ObjectRange(IN, 6)).parts}
    given = Payload(b"{}", "d" * 64, parts, secrets={"TOKEN": "x"})
    files = input_files(given, step)
    assert {name for name, file in files.items() if file.is_secret} == {LOCATIONS, UPLOADS, SECRETS}
    assert files["code.zip"].data == b"code"
    assert not input_files(given, step, MOUNTS)[LOCATIONS].is_secret, "these are paths in the job"


def test_a_job_with_an_output_folder_writes_to_no_address():
    step = spec(timeout_s=60.0, result_uri="s3://data/stepop/r")
    given = Payload(b"{}", "d" * 64, features=frozenset({"outcome"}))
    assert set(input_files(given, step, has_output_folder=True)) == {MANIFEST, RUNNER}
    files = input_files(payload(ObjectRange(IN, 6)), step, has_output_folder=True)
    assert set(files) == {MANIFEST, RUNNER, LOCATIONS}


@pytest.mark.parametrize(
    ("start_timeout_s", "valid_s"), [(600.0, 600 + MARGIN_S), (None, START_ALLOWANCE_S + MARGIN_S)]
)
def test_addresses_to_read_last_until_the_start(start_timeout_s, valid_s):
    """So a job may run for 28 days and read results in another store."""
    month = spec(timeout_s=4 * WEEK_S, start_timeout_s=start_timeout_s, result_uri="s3://data/stepop/r")
    files = input_files(payload(ObjectRange(IN, 6)), month, has_output_folder=True)
    assert abs(validity_s(files) - valid_s) <= 2


def test_a_job_that_may_restart_reads_its_input_again():
    given = payload(ObjectRange(IN, 6))
    options = {"has_output_folder": True, "may_restart": True}
    day = spec(timeout_s=86400.0, start_timeout_s=600.0, result_uri="s3://data/stepop/r")
    assert abs(validity_s(input_files(given, day, **options)) - 86400 - 600 - MARGIN_S) <= 2
    month = spec(timeout_s=4 * WEEK_S, result_uri="s3://data/stepop/r")
    with pytest.raises(StepConfigError, match=r"more than 7 days.*Lower timeout to 6 days, 23:00:00"):
        input_files(given, month, **options)


def test_a_start_after_a_week_is_refused_with_advice():
    late = spec(timeout_s=60.0, start_timeout_s=WEEK_S, result_uri="s3://data/stepop/r")
    with pytest.raises(StepConfigError, match=r"more than 7 days.*Lower start_timeout to 6 days, 23:00:00"):
        input_files(payload(ObjectRange(IN, 6)), late, has_output_folder=True)


def validity_s(files):
    """Return for how many seconds the addresses in ``locations.json`` are valid."""
    return int(re.search(rb"X-Amz-Expires=(\d+)", gzip.decompress(files[LOCATIONS].data))[1])
