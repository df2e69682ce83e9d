"""Which secrets of a step go into a Secret of Modal that only its sandbox has. Called by the hook.

Such a Secret has no name, and Modal shows its values to nobody. The others are sealed in the Volume: values
that are larger than a sandbox's environment may be, and names that it cannot have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_stepop.hooks.modal.request import RESERVED_ENV

MOST_BYTES = 32 * 1024  # of all names and values; env= shares the 64 KiB of the environment
_NAME = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")


def own_secret(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the values for the Secret: all of them, or none."""
    has_names = all(_NAME.fullmatch(name) and name not in RESERVED_ENV for name in secrets)
    return dict(secrets) if has_names and secret_bytes(secrets) <= MOST_BYTES else {}


def secret_bytes(secrets: Mapping[str, str]) -> int:
    """Return the size of all names and values."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in secrets.items())
