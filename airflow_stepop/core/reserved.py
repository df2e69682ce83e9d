"""Fixed words that the arguments of a task and the defaults of a connection are checked against.

DAG files import this module, so it imports nothing.
"""

from __future__ import annotations

KEEP = ("never", "failed", "always")  # whether a finished job stays at its service
OUR_ENV = ("STEPOP_JOB", "STEPOP_NONCE", "STEPOP_WORK", "STEPOP_CHECKPOINT_DIR")  # set for every step
