"""Writes the outcome of a step, ``outcome.json``. Used by both processes of the runner."""

from __future__ import annotations

import os

from . import protocol
from .files import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Outcome


def empty_outcome(job: str, nonce: str) -> Outcome:
    return {
        "protocol": protocol.PROTOCOL,
        "job": job,
        "nonce": nonce,
        "status": "failure",
        "value": None,
        "split": None,
        "values": None,
        "outputs": {},
        "failure": None,
        "usage": {},
    }


def write_outcome(out: str, outcome: Outcome) -> bytes:
    import json

    data = json.dumps(outcome, separators=(",", ":")).encode()
    write_atomic(os.path.join(out, protocol.OUTCOME), [data], is_synced=True)
    return data
