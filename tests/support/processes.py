"""Processes of this host, as ``/proc`` has them."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")


def is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie, which nobody has collected yet, does not."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        return int((PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()[1])
    return 0


def with_variable(variable: str) -> list[int]:
    """Return every process that has ``NAME=value`` in its environment."""
    found = []
    for path in PROC.glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def of_job(nonce: str) -> list[int]:
    """Return the processes that carry the nonce of a job: its own, and what it has left behind."""
    return with_variable(f"STEPOP_NONCE={nonce}")
