"""Every phase of a step with its time, on standard error, when ``STEPOP_DEBUG`` asks for it; no values."""

from __future__ import annotations

import os
import time

from . import protocol
from .files import quietly

_started = time.monotonic()
_is_wanted = os.environ.get(protocol.ENV_DEBUG, "") not in ("", "0")


def phase(text: str) -> None:
    """Say that something has just happened."""
    if _is_wanted:
        line = f"stepop debug +{time.monotonic() - _started:.3f} s: {text}\n"
        quietly(os.write, 2, line.encode())  # past sys.stderr: the step may have put anything there
