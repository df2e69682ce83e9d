"""The live tests run only when they are asked to, and their absence fails nothing, in CI neither."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.support.paths import ROOT

# backend -> its variables, with values
LIVE = {
    "sagemaker": {
        "STEPOP_LIVE_ROLE": "x",
        "STEPOP_LIVE_IMAGE": "x",
        "STEPOP_LIVE_STORE": "s3://bucket/prefix",
        "AWS_REGION": "eu-west-1",
    },
    "modal": {"STEPOP_LIVE_ENVIRONMENT": "x", "MODAL_TOKEN_ID": "ak-x", "MODAL_TOKEN_SECRET": "as-x"},
}
CLASSES = {"sagemaker": "TestLiveSageMaker", "modal": "TestLiveModal"}


def collected(backend: str, env: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-q", *options]
    command.append(f"tests/contract/test_{backend}_live.py")
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("backend", LIVE)
def test_without_an_account_one_line_says_what_is_missing(backend: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in LIVE[backend]}
    done = collected(backend, {**env, "STEPOP_CI": "1"}, "-rs")
    assert done.returncode == 5, done.stdout  # no tests were collected
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all(name in line for name in LIVE[backend])


@pytest.mark.parametrize("backend", LIVE)
def test_with_the_variables_the_whole_contract_is_collected(backend: str) -> None:
    done = collected(backend, os.environ | LIVE[backend], "--collect-only")
    assert done.returncode == 0, done.stdout
    assert f"{CLASSES[backend]}::test_submit_twice_is_one_job" in done.stdout
    assert f"::{CLASSES[backend].replace('Live', '')}::" not in done.stdout


@pytest.mark.parametrize("backend", LIVE)
def test_contributing_names_each_variable(backend: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(name in page for name in LIVE[backend])
