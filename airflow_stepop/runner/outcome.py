"""Writes the outcome of a step, ``outcome.json``. Used by both processes of the runner."""

from __future__ import annotations

import os

from . import protocol
from .failures import StepError
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
    """Write ``outcome.json`` and return its bytes.

    :raises StepError: it is larger than an outcome may be
    :raises OSError: it cannot be written
    """
    import json

    data = json.dumps(outcome, separators=(",", ":")).encode()
    if len(data) > protocol.OUTCOME_BYTES:
        count = len(outcome["values"] or outcome["outputs"] or ())
        raise StepError(
            "user_error",
            f"The step ran, but returned {count} values, whose description has {len(data) / 2**20:.1f} MiB, "
            f"more than {protocol.OUTCOME_BYTES >> 20} MiB",
            "return fewer values, for example lists of them: one value may have any size",
        )
    write_atomic(os.path.join(out, protocol.OUTCOME), [data], is_synced=True)
    return data
