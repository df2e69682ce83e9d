"""A connection of Airflow, as far as we read one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass
class FakeConnection:
    """Its extra is the text that somebody wrote."""

    extra: str
    conn_id: str = "gpu"
    conn_type: str = "generic"
    extra_dejson: Any = None


def connection_with(stepop: Any, conn_id: str = "gpu", **extra: Any) -> FakeConnection:
    """Return a connection that holds defaults for steps."""
    return FakeConnection(json.dumps({**extra, "stepop": stepop}), conn_id)
