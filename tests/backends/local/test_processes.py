"""Processes are found by their environment, even while one briefly has none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_stepop.hooks.local.supervisor import linux
from airflow_stepop.hooks.local.supervisor.linux import kill_marked
from tests.support.processes import started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


@pytest.fixture
def without_environment():
    with started(["sleep", "600"], env={}) as process:
        yield process


def test_a_process_that_executes_programs_all_the_time_is_killed(tmp_path: Path) -> None:
    """In a tenth of all looks the process has no readable environment."""
    script = tmp_path / "again.sh"
    script.write_text('exec sh "$0"\n')
    for number in range(30):
        env = {**os.environ, "STEPOP_NONCE": f"again-{number}"}
        with started(["sh", str(script)], env=env):
            time.sleep(0.02)  # any other moment would do as well
            killed = kill_marked(f"STEPOP_NONCE=again-{number}")
        assert killed


def test_a_process_without_environment_is_not_waited_for(
    without_environment: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for it would exceed the test's timeout."""
    monkeypatch.setattr(linux, "KILL_TIMEOUT_S", 3600.0)
    assert kill_marked("STEPOP_NONCE=nobody") == 0
    assert without_environment.poll() is None
