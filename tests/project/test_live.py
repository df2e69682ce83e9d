"""The live tests run only when they are asked to, and their absence fails nothing, in CI neither."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.paths import ROOT

LIVE = "tests/contract/test_sagemaker_live.py"
VARIABLES = {"STEPOP_LIVE_ROLE", "STEPOP_LIVE_IMAGE", "STEPOP_LIVE_STORE", "AWS_REGION"}


def test_without_an_account_one_line_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"STEPOP_CI": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-rs", "-q", LIVE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout  # no tests were collected
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all(name in line for name in VARIABLES)


def test_with_the_variables_the_whole_contract_is_collected() -> None:
    given = {"STEPOP_LIVE_STORE": "s3://bucket/prefix", "AWS_REGION": "eu-west-1"}
    env = os.environ | dict.fromkeys(VARIABLES, "x") | given
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "--collect-only", "-q", LIVE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "TestLiveSageMaker::test_submit_twice_is_one_job" in done.stdout
    assert "::TestSageMaker::" not in done.stdout


def test_contributing_names_each_variable() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(name in page for name in VARIABLES)
