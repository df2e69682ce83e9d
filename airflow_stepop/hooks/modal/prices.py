"""The published rates of Modal, for what a step costs at least. The bill itself: ``App.sandboxes.stats``.

Source: https://modal.com/pricing, as copied by others in mid 2026, and https://modal.com/docs/guide/region-selection.
Modal bills by the second, each time the larger of what was requested and what was used. So the cost of a
request is a lower bound. A sandbox costs three times as much CPU and memory as a Function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_stepop.hooks.modal.gpus import PRICES_OF, parse_gpu
from airflow_stepop.hooks.modal.sizes import LEAST_CPU, LEAST_MIB

__all__ = ["FUNCTION_CORE_S", "FUNCTION_GIB_S", "PRICES_OF", "SANDBOX_CORE_S", "SANDBOX_GIB_S", "least_cost"]

# US dollars per second of one physical core, and of one GiB
SANDBOX_CORE_S, SANDBOX_GIB_S = 0.00003942, 0.00000672
FUNCTION_CORE_S, FUNCTION_GIB_S = 0.0000131, 0.00000222
BROAD_REGION, NARROW_REGION = 1.5, 1.75  # times as much: region="us", region="us-east"


def least_cost(request: Mapping[str, Any], seconds: float) -> float | None:
    """Return what a sandbox costs at least, in US dollars; ``None`` if the price of its GPU is not known.

    :param request: of :func:`~airflow_stepop.hooks.modal.request.sandbox_request`
    :param seconds: how long the sandbox runs
    """
    cores, mib = (_request(request.get(name)) for name in ("cpu", "memory"))
    per_s = max(cores, LEAST_CPU) * SANDBOX_CORE_S + max(mib, LEAST_MIB) / 1024 * SANDBOX_GIB_S
    if "gpu" in request:
        gpu = parse_gpu(request["gpu"])
        if gpu.kind is None or gpu.kind.price_per_s is None:
            return None
        per_s += gpu.how_many * gpu.kind.price_per_s
    return per_s * seconds * _multiplier(request.get("region"))


def _request(given: Any) -> float:
    return float((given[0] if isinstance(given, list) else given) or 0.0)


def _multiplier(regions: list[str] | None) -> float:
    if not regions:
        return 1.0
    return BROAD_REGION if any("-" not in one for one in regions) else NARROW_REGION
