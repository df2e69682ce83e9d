"""Runs the entrypoint of a job on this host, in namespaces of its own, where /opt/ml is the job's.

``inside.py`` makes a user, mount, pid and UTS namespace (and a network namespace for
EnableNetworkIsolation), so no privilege is needed, and every process of the job ends with its entrypoint
and with the emulator. An image is a Python interpreter of this host, which is ``python3`` and ``python`` on
the job's PATH.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path(__file__).with_name("inside.py")
PYTHON = [sys.executable, "-I", "-S", str(INSIDE)]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def unavailable() -> str:
    """Return why this host cannot make the namespaces; an empty text where it can."""
    tried = subprocess.run([*PYTHON, "probe"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return tried.stderr.strip() or f"the trial ended with exit code {tried.returncode}"
    return "" if Path("/opt").is_dir() else "/opt does not exist here"


@dataclass
class Spec:
    """What to run, and the folder of the attempt on this host; ``ml`` in it becomes /opt/ml."""

    folder: Path
    argv: list[str]
    env: dict[str, str]
    python: str
    hostname: str = "ip-10-0-0-1.ec2.internal"
    mounts: list[tuple[str, str]] = field(default_factory=list)
    private_tmp: bool = True
    shared: list[str] = field(default_factory=list)
    network: bool = True

    @property
    def ml(self) -> Path:
        return self.folder / "ml"


class Container:
    """A running entrypoint."""

    def __init__(self, spec: Spec) -> None:
        for name in ("opt", "tmp"):
            (spec.folder / name).mkdir(parents=True)
        binaries = spec.folder / "opt" / "image" / "bin"
        binaries.mkdir(parents=True)
        for name in ("python3", "python"):
            (binaries / name).write_text(f'#!/bin/sh\nexec {spec.python} "$@"\n')
            (binaries / name).chmod(0o755)
        env = {"PATH": f"/opt/image/bin:{PATH}", "HOME": "/root", "LANG": "C.UTF-8", **spec.env}
        shared = [(path, path) for path in spec.shared if spec.private_tmp and path.startswith("/tmp/")]
        written = spec.folder / "spec.json"
        written.write_text(
            json.dumps(
                {
                    "argv": spec.argv,
                    "env": env,
                    "ml": str(spec.ml),
                    "opt": str(spec.folder / "opt"),
                    "tmp": str(spec.folder / "tmp") if spec.private_tmp else "",
                    "mounts": [*spec.mounts, *shared],
                    "hostname": spec.hostname,
                }
            )
        )
        self._process = subprocess.Popen(
            [*PYTHON, "run", str(written), "host" if spec.network else "none"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH},
            start_new_session=True,
        )
        assert self._process.stdout
        self.output = self._process.stdout

    @property
    def pid(self) -> int | None:
        """Return the entrypoint's process on this host; None before it began and after it ended."""
        pid = self._process.pid
        try:
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(words[0]) if words else None

    def signal(self, number: int) -> None:
        """Send a signal to the entrypoint alone, as ``docker stop`` does."""
        while (pid := self.pid) is None and self._process.poll() is None:
            time.sleep(0.005)  # it is just being made, or has just ended
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End everything that runs in the container, and wait for it."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def exit_code(self) -> int | None:
        """Return the exit code as docker has it (128 + the signal), or None while the container runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code
