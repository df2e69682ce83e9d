"""The parts of the cluster on this host, which a test may stop.

``STEPOP_CLUSTER`` names a command: ``up`` starts the parts that do not run, ``down`` removes all of them. The
pids are in ``run/<part>.pid`` below ``LOCALCLUSTER_HOME``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

HOME = Path(os.environ.get("LOCALCLUSTER_HOME", "/var/lib/localcluster"))


class Parts:
    """A cluster whose parts are processes of this host."""

    def __init__(self, command: str) -> None:
        self.command = command

    def _run(self, verb: str) -> None:
        done = subprocess.run([self.command, verb], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, f"{self.command} {verb}: {done.stdout}{done.stderr}"

    def up(self) -> None:
        self._run("up")

    def down(self) -> None:
        self._run("down")

    def send(self, part: str, number: signal.Signals) -> None:
        os.kill(int((HOME / "run" / f"{part}.pid").read_text()), number)
