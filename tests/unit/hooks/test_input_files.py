"""The files in the runner's input folder. ``unit/stores/test_transfer.py`` uses a real bucket."""

from __future__ import annotations

import gzip
import json

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.job import ObjectRange, Part, Payload, StepSpec
from airflow_stepop.runner.protocol import CHECKPOINT, LOCATIONS, MANIFEST, RUNNER, UPLOADS
from airflow_stepop.stores.s3 import AwsAccess

WEEK_S = 7 * 86400.0
MOUNTS = {"s3://": "/mnt/s3/"}


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
    assert json.loads(b"".join(files[LOCATIONS])) == {"arg": "/mnt/s3/data/stepop/in put"}
    files = input_files(payload(ObjectRange(parts, 2, 0), ObjectRange(parts, 4, 8)), step, MOUNTS)
    path = "/mnt/s3/data/stepop/parts"
    assert json.loads(b"".join(files[LOCATIONS])) == {"arg": [[path, 0, 2], [path, 8, 4]]}


def test_a_bucket_that_is_not_mounted_is_signed_for():
    step = spec(timeout_s=60.0, result_uri="s3://data/stepop/r")
    files = input_files(payload(ObjectRange("s3://data/stepop/in", 6)), step, {"gs://": "/gcs/"})
    assert set(files) == {MANIFEST, RUNNER, LOCATIONS, UPLOADS}
    table = json.loads(gzip.decompress(b"".join(files[LOCATIONS])))
    assert table["arg"].startswith("https://")
    assert "X-Amz-Signature" in table["arg"]
    with pytest.raises(StepConfigError, match="at most 7 days"):
        input_files(payload(), spec(timeout_s=4 * WEEK_S, result_uri="s3://data/stepop/r"))


def test_a_put_has_the_headers_and_the_limit_of_its_store(monkeypatch):
    monkeypatch.setattr(AwsAccess, "put_headers", lambda self: {"x-of-the-store": "yes"})
    files = input_files(payload(), spec(timeout_s=60.0, result_uri="s3://data/stepop/r"))
    table = json.loads(gzip.decompress(b"".join(files[UPLOADS])))
    assert table["headers"] == {"x-of-the-store": "yes"}
    assert table["most_bytes"] == 5 * 1024**3
    assert CHECKPOINT not in files


def test_a_folder_that_the_job_does_not_see_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}")
    part = ObjectRange(f"file://{tmp_path}/in", 6)
    files = input_files(payload(part), spec(timeout_s=60.0))
    assert json.loads(b"".join(files[LOCATIONS])) == {"arg": f"{tmp_path}/in"}
    with pytest.raises(StepConfigError, match="is not a bucket"):
        input_files(payload(part), spec(timeout_s=60.0), {"gs://": "/gcs/"})
