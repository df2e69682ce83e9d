"""Which connections are for steps, as far as they say so themselves."""

from __future__ import annotations

import json

import pytest

from airflow_stepop.connections.extra import may_be_for_steps
from tests.support.connections import FakeConnection


@pytest.mark.parametrize(
    ("conn_id", "conn_type", "extra", "expected"),
    [
        ("gpus", "kubernetes", {}, True),
        ("aws_default", "aws", {}, True),
        ("bucket", "aws", {"endpoint_url": "http://minio"}, False),
        ("google_cloud_default", "google_cloud_platform", {}, True),
        ("bucket", "google_cloud_platform", {"project": "p"}, False),
        ("training", "aws", {"stepop": {}}, True),
        ("training", "aws", {"backend": "sagemaker"}, True),
        ("queue", "http", {}, True),
    ],
)
def test_a_connection_of_a_cloud_says_whether_steps_use_it(conn_id, conn_type, extra, expected):
    """The connection of a bucket is not asked for jobs, which its server could not answer."""
    assert may_be_for_steps(FakeConnection(json.dumps(extra), conn_id, conn_type)) is expected
