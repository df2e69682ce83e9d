"""What sandboxes cost, by the prices of the settings: of one sandbox, of groups by tags, and the rates."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

from modal_proto import api_pb2

from tests.emulators.modal.errors import invalid
from tests.emulators.modal.sandboxes import Sandbox
from tests.emulators.modal.world import World

HOUR_S, MOST_RANGE = 3600, timedelta(days=7)  # [src] ranges of the statistics: whole UTC hours, 7 days
MOST_GROUPS = 10_000


class CostRpcs:
    """Statistics of sandboxes and the rates of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _seconds(self, sandbox: Sandbox, since: float, until: float) -> float:
        """Return how long a sandbox ran within a range."""
        if not sandbox.started_at or time.time() - sandbox.started_at < self._world.settings.stats_lag_s:
            return 0.0
        ended = sandbox.ended_at or time.time()
        return max(0.0, min(ended, until) - max(sandbox.started_at, since))

    def _costs(self, sandbox: Sandbox, seconds: float) -> dict[str, float]:
        """Return USD by resource. Billed is the request; usage above it is not measured here."""
        prices, resources = self._world.settings.prices, sandbox.definition.resources
        memory_mb = resources.memory_mb or self._world.settings.default_memory_mb
        costs = {
            "CPU": (resources.milli_cpu or 125) / 1000 * prices["CPU"] * seconds,
            "Memory": memory_mb / 1024 * prices["Memory"] * seconds,
        }
        if gpu := resources.gpu_config.gpu_type:
            costs[gpu] = resources.gpu_config.count * prices.get(gpu, 0.001) * seconds
        return costs

    async def sandbox_get_stats(self, request: Any, call: Any) -> Any:
        sandbox = self._world.sandboxes.get(request.sandbox_id)
        since = request.since.ToSeconds() if request.HasField("since") else sandbox.created_at
        until = request.until.ToSeconds() if request.HasField("until") else time.time()
        seconds = self._seconds(sandbox, since, until)
        answer = api_pb2.SandboxGetStatsResponse(duration_hours=seconds / HOUR_S)
        answer.since.FromNanoseconds(int(since * 1e9))
        answer.until.FromNanoseconds(int(until * 1e9))
        if seconds:
            costs = self._costs(sandbox, seconds)
            answer.cost = total(costs)
            answer.cost_by_resource.update({name: text(cost) for name, cost in costs.items()})
        return answer

    async def sandbox_get_time_range_stats(self, request: Any, call: Any) -> Any:
        """Return a page of groups: the sandboxes with the same values of some tags."""
        self._world.apps.get(request.app_id)
        until = request.until.ToSeconds() if request.HasField("until") else time.time()
        since = request.since.ToSeconds()
        if since % HOUR_S or (request.HasField("until") and until % HOUR_S):
            raise invalid("`since` and `until` must be on a UTC hour boundary")
        if until - since > MOST_RANGE.total_seconds():
            raise invalid("The time range cannot exceed 7 days")
        groups = self._groups(request, since, until)
        if len(groups) > MOST_GROUPS:
            raise invalid(f"more than {MOST_GROUPS} groups")
        first, size = int(request.page_token or 0), self._world.settings.stats_page
        answer = api_pb2.SandboxGetTimeRangeStatsResponse(
            next_page_token=str(first + size) if first + size < len(groups) else ""
        )
        for values, costs in list(groups.items())[first : first + size]:
            group = answer.groups.add(cost=sum(costs.values()), cost_str=total(costs))
            for name, value in zip(request.group_by_tags, values, strict=True):
                group.tags[name].CopyFrom(api_pb2.SandboxStatsGroup.TagValue(value=value))
            for name, cost in costs.items():
                group.cost_by_resource_str[name] = text(cost)
        return answer

    def _groups(
        self, request: Any, since: float, until: float
    ) -> dict[tuple[str | None, ...], dict[str, float]]:
        groups: dict[tuple[str | None, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        wanted = dict(request.tags).items()
        for sandbox in self._world.sandboxes.of_app(request.app_id):
            seconds = self._seconds(sandbox, since, until)
            if seconds and wanted <= sandbox.tags.items():
                values = tuple(sandbox.tags.get(name) for name in request.group_by_tags)
                for name, cost in self._costs(sandbox, seconds).items():
                    groups[values][name] += cost
        return groups

    async def workspace_billing_rates(self, request: Any, call: Any) -> Any:
        """The names of the real service's rates are not known; here they are the resources."""
        rates = {name: text(price) for name, price in self._world.settings.prices.items()}
        return api_pb2.WorkspaceBillingRatesResponse(rates=rates, formatted=str(rates))


def text(cost: float) -> str:
    return f"{cost:.12f}"


def total(costs: dict[str, float]) -> str:
    """Return the sum of costs as they are written: [src] the total is the sum of the parts."""
    return f"{sum(Decimal(text(cost)) for cost in costs.values()):.12f}"
