"""Who is found by the environment: also in the moment in which a process has none."""

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
    """In a tenth of all looks it has no environment that could be read."""
    script = tmp_path / "again.sh"
    script.write_text('exec sh "$0"\n')
    for number in range(30):
        env = {**os.environ, "STEPOP_NONCE": f"again-{number}"}
        with started(["sh", str(script)], env=env):
            time.sleep(0.02)  # longer or shorter: each moment in the life of such a process is as good
            killed = kill_marked(f"STEPOP_NONCE=again-{number}")
        assert killed


def test_who_has_no_environment_is_not_waited_for(
    without_environment: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for it would wait for longer than any test may take."""
    monkeypatch.setattr(linux, "KILL_TIMEOUT_S", 3600.0)
    assert kill_marked("STEPOP_NONCE=nobody") == 0
    assert without_environment.poll() is None
