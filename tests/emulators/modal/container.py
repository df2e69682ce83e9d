"""Runs the command of a sandbox on this host, in namespaces of its own, with its Volumes at their paths.

The entrypoint is process 1, so every process of the sandbox ends with it and with the emulator. ``python3``
and ``python`` on its PATH are the emulator's interpreter, or that of its image.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path(__file__).with_name("inside.py")
SYNC = Path(__file__).with_name("sync.py")
PYTHON = [sys.executable, "-I", "-S", str(INSIDE)]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAGE = os.sysconf("SC_PAGE_SIZE")


@functools.cache
def unavailable() -> str:
    """Return why this host cannot make the namespaces; an empty text where it can."""
    tried = subprocess.run([*PYTHON, "probe"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return tried.stderr.strip() or f"the trial ended with exit code {tried.returncode}"
    return ""


@dataclass
class Spec:
    """What to run, and the folder of the sandbox on this host."""

    folder: Path
    argv: list[str]
    env: dict[str, str]
    python: str
    mounts: list[tuple[str, str, bool]] = field(default_factory=list)  # folder here, path there, read-only
    workdir: str = ""
    private_tmp: bool = True
    shared: list[str] = field(default_factory=list)
    network: bool = True


class Container:
    """A running command. ``sync`` is called with the mount paths whose files shall be committed."""

    process: asyncio.subprocess.Process

    def __init__(self, spec: Spec, sync: Callable[[list[str]], Awaitable[None]]) -> None:
        self._spec, self._sync = spec, sync
        self.own = spec.folder / "own"  # what the sandbox sees as /__modal

    async def start(self) -> None:
        """Write the files of the sandbox, open the door for ``sync``, and start the process."""
        spec = self._spec
        self._write_programs()
        folder = os.open(self.own, os.O_RDONLY)  # the path of a socket has at most 107 bytes
        self._door = await asyncio.start_unix_server(self._answer, f"/proc/self/fd/{folder}/door")
        os.close(folder)
        env = {"PATH": f"/__modal/bin:{PATH}", "HOME": "/root", "LANG": "C.UTF-8", **spec.env}
        written = spec.folder / "spec.json"
        written.write_text(
            json.dumps(
                {
                    "folder": str(spec.folder),
                    "own": str(self.own),
                    "argv": spec.argv,
                    "env": env,
                    "mounts": spec.mounts,
                    "workdir": spec.workdir or "/root",
                    "private_tmp": spec.private_tmp,
                    "shared": [one for one in spec.shared if spec.private_tmp and one.startswith("/tmp/")],
                    "sync": shutil.which("sync", path=PATH) or "/bin/sync",
                }
            )
        )
        self.process = await asyncio.create_subprocess_exec(
            *(*PYTHON, "run", str(written), "host" if spec.network else "none"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH},
            start_new_session=True,
        )

    def _write_programs(self) -> None:
        binaries = self.own / "bin"
        binaries.mkdir(parents=True)
        for name in ("python3", "python"):
            (binaries / name).write_text(f'#!/bin/sh\nexec {self._spec.python} "$@"\n')
            (binaries / name).chmod(0o755)
        (self.own / "mounts.json").write_text(
            json.dumps([path for _, path, read_only in self._spec.mounts if not read_only])
        )
        (self.own / "real-sync").touch()
        (self.own / "sync").write_text(f"#!{sys.executable} -IS\n{SYNC.read_text()}")
        (self.own / "sync").chmod(0o755)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Commit what a ``sync`` in the sandbox names, and answer when it is done."""
        try:
            await self._sync(json.loads(await reader.readline()))
            writer.write(b"ok\n")
            await writer.drain()
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                writer.write(f"{error}\n".encode())
        finally:
            writer.close()

    @property
    def pid(self) -> int | None:
        """Return the entrypoint's process on this host; None before it began and after it ended."""
        return next(children(self.process.pid), None)

    def memory_bytes(self) -> int:
        """Return the resident memory of all processes of the sandbox, without mapped files."""
        return sum(anonymous(pid) for pid in descendants(self.process.pid))

    def init_failure(self) -> str:
        """Return why the command could not be executed; an empty text if it could."""
        with contextlib.suppress(FileNotFoundError):
            return (self.own / "init-failure").read_text()
        return ""

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM to the entrypoint, and SIGKILL after ``grace_s``. Return when all is gone."""
        if grace_s and (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), grace_s)
        while self.process.returncode is None:
            if (pid := self.pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 0.02)

    def close(self) -> None:
        self._door.close()

    def exit_code(self) -> int | None:
        """Return the exit code as a shell has it (128 + the signal), or None while the command runs."""
        code = self.process.returncode
        return 128 - code if code is not None and code < 0 else code


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def anonymous(pid: int) -> int:
    """Return resident bytes of a process that are no file's."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * PAGE
