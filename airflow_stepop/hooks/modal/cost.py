"""What a step has cost, for its usage: ``cost_usd`` and ``cost_source``. Called by ``sandboxes.py``.

Modal bills the larger of what was requested and what was used, and says so some minutes later. So the cost
of a step that has just ended is what its request costs by the published rates: a lower bound. If Modal's own
statistics already have more, they count.

Source: ``App.sandboxes.stats`` of the package ``modal`` 1.6.4, for ranges that begin at a full hour.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_stepop.hooks.modal.calls import bounded
from airflow_stepop.hooks.modal.prices import PRICES_OF
from airflow_stepop.hooks.modal.tags import selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_stepop.hooks.modal.service import Service

STATS_S = 5.0  # the statistics are asked for so long, as nothing needs them
BY_RATES = f"the published rates of {PRICES_OF}, at least"
BY_STATISTICS = "the statistics of Modal so far"

log = logging.getLogger(__name__)


def least(usage: Mapping[str, Any], usd_per_s: float) -> dict[str, Any]:
    """Return the cost by the published rates; empty if the time or the rates are not known.

    :param usage: with ``wall_s``, see :func:`.status.usage_of`
    :param usd_per_s: what the request costs, in US dollars per second; 0.0: not known
    """
    if not usd_per_s or "wall_s" not in usage:
        return {}
    return _cost(usage["wall_s"] * usd_per_s, BY_RATES)


def billed(service: Service, nonce: str, begin: float, usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cost by the statistics if they have more than ``usage``, else what ``usage`` has.

    One request. An error is no reason to lose the outcome of a step.

    :param begin: when the sandbox was submitted, in seconds since the epoch
    """
    known = {name: usage[name] for name in ("cost_usd", "cost_source") if name in usage}
    app = service.app()
    since = datetime.fromtimestamp(begin, UTC).replace(minute=0, second=0, microsecond=0)
    tags = selector({"nonce": nonce})
    try:
        groups = bounded(lambda: list(app.sandboxes.stats(since=since, tags=tags)), STATS_S)
        cost = float(sum(group.cost for group in groups))
    except Exception as error:  # noqa: BLE001, RUF100 - whatever the client raises
        log.debug("Modal gave no statistics of a sandbox: %s", error)
        return known
    return _cost(cost, BY_STATISTICS) if cost > known.get("cost_usd", 0.0) else known


def _cost(usd: float, source: str) -> dict[str, Any]:
    return {"cost_usd": round(usd, 6), "cost_source": source}
