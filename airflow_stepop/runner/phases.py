"""Logs each phase of a step with its time to standard error if ``STEPOP_DEBUG`` is set. It logs no values."""

from __future__ import annotations

import os
import time

from . import protocol
from .files import quietly

_started = time.monotonic()
is_wanted = os.environ.get(protocol.ENV_DEBUG, "") not in ("", "0")


def phase(text: str) -> None:
    """Log that a phase has just ended.

    :param text: name of the phase, such as ``code extracted``
    """
    if is_wanted:
        line = f"stepop debug +{time.monotonic() - _started:.3f} s: {text}\n"
        quietly(os.write, 2, line.encode())  # not sys.stderr: the step may have replaced it
