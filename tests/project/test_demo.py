"""``make demo ARGS=--kill`` shows a step that outlives its worker."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(1500)]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/demo.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_worker_is_killed_and_its_step_goes_on() -> None:
    """One process does all parts, and the second worker attaches to its job."""
    done = demo("--kill")
    assert done.returncode == 0, done.stdout + done.stderr
    killed, attached = (
        re.search(pattern, done.stdout)
        for pattern in (r"the step \(process (\d+)\) has done 3 of its 12 parts: kill -9 (\d+)",
                        r"worker 2 attached to local job s-\S+, which is (?:running|succeeded)")
    )  # fmt: skip
    assert killed is not None, done.stdout
    assert attached is not None, done.stdout
    assert f'try 2 of the task: success\n  it returned {{"parts": 12, "pid": {killed[1]}}}' in done.stdout
    assert f"process {killed[1]} did all 12 parts, once" in done.stdout


def test_an_unknown_option_is_refused() -> None:
    done = demo("--kil")
    assert done.returncode == 1
    assert done.stderr == "make demo has the option ARGS=--kill, and none called --kil\n"
