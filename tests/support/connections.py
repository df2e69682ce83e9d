"""A stand-in for an Airflow connection, with the fields that this project reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass
class FakeConnection:
    """``extra`` is the text as the user wrote it."""

    extra: str
    conn_id: str = "gpu"
    conn_type: str = "generic"
    extra_dejson: Any = None


def connection_with(stepop: Any, conn_id: str = "gpu", **extra: Any) -> FakeConnection:
    """Return a connection whose extra has defaults for steps."""
    return FakeConnection(json.dumps({**extra, "stepop": stepop}), conn_id)
