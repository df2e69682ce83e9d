"""The command that starts the runner, as the runner parses it."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.common.bootstrap import BOOTSTRAP
from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
from airflow_stepop.job import StepSpec
from airflow_stepop.runner.main import _options
from airflow_stepop.runner.protocol import NOWHERE
from airflow_stepop.stores.folder import NO_MOUNTS, THIS_HOST

GCS = {"gs://": "/gcs/"}


def spec(**fields):
    return StepSpec("s-x", "abc", {}, digest="d" * 64, **fields)


def argv(of, **options):
    return runner_argv("python3", of, inputs="in", outputs="out", receipt="-", **options)


def test_the_runner_understands_every_option():
    words = argv(spec(timeout_s=2419200.0), receipt_limit=262144, timeout=2419200.0, grace=None, linger=0.2)
    assert words[:4] == ["python3", "-u", "in/step.pyz", "run"]
    options = _options(words[3:])
    assert options["digest"] == "d" * 64
    assert options["receipt-limit"] == "262144"
    assert (options["timeout"], options["linger"]) == ("2419200", "0.2")
    assert "--grace" not in words


def test_the_runner_s_own_digest_comes_before_everything():
    words = argv(spec(), runner_digest="e" * 64)
    assert words[:7] == ["python3", "-u", "-c", BOOTSTRAP, "in/step.pyz", "e" * 64, "run"]
    assert words[6:] == argv(spec())[3:]


@pytest.mark.parametrize("result_uri", ["file:///srv/r", "s3://b/r", ""])
def test_values_go_into_an_output_folder_that_comes_back(result_uri):
    assert "--segments" not in argv(spec(result_uri=result_uri), has_output_folder=True)


def test_the_service_may_insert_the_digest():
    words = argv(spec(), digest="$(DIGEST)")
    assert words[words.index("--digest") + 1] == "$(DIGEST)"


@pytest.mark.parametrize(
    ("result_uri", "mounts", "expected"),
    [
        ("file:///srv/r%20s", THIS_HOST, "/srv/r s"),
        ("file:///srv/r", NO_MOUNTS, NOWHERE),
        ("file:///srv/r", GCS, NOWHERE),
        ("", NO_MOUNTS, NOWHERE),
        ("", THIS_HOST, None),
        ("s3://b/r", THIS_HOST, None),
        ("s3://b/r", NO_MOUNTS, None),
        ("s3://b/r", GCS, None),
        ("gs://b/r", GCS, "/gcs/b/r"),
    ],
)
def test_segments_go_where_the_job_can_write(result_uri, mounts, expected):
    words = argv(spec(result_uri=result_uri), mounts=mounts)
    assert (words[words.index("--segments") + 1] if "--segments" in words else None) == expected


def test_a_checkpoint_folder_is_passed_to_a_job_that_sees_it():
    words = argv(spec(checkpoint_uri="file:///srv/c"), mounts=THIS_HOST)
    assert words[-2:] == ["--checkpoint", "/srv/c"]
    assert "--checkpoint" not in argv(spec(checkpoint_uri="file:///srv/c"))
    assert "--checkpoint" not in argv(spec(checkpoint_uri="s3://b/c"), mounts=THIS_HOST)


def test_the_identity_of_the_step_wins_over_the_user_s_variables():
    assert step_env(spec(env={"A": "b", "STEPOP_JOB": "other"})) == {
        "A": "b",
        "STEPOP_JOB": "s-x",
        "STEPOP_NONCE": "abc",
    }
