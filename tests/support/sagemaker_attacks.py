"""What attackers of the SageMaker backend make: outcomes and receipts that no runner has written."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SPOT = {"use_spot_instances": True, "max_wait_time_in_seconds": 7200, "max_runtime_in_seconds": 3600}
FORGED = b'{"forged": true}'


def receipt_for(data: bytes) -> str:
    """Return a receipt as the runner writes it, for bytes that no runner has written."""
    return json.dumps({"protocol": 1, "digest": hashlib.sha256(data).hexdigest(), "size": len(data)})


def plant(store: Any, handle: Any) -> None:
    """Write a forged outcome to where the service would copy the real one."""
    path = store.path_of(handle.detail["results"])
    store.put(f"{path}/output/model/stepop/outcome.json", FORGED)
