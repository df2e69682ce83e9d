"""What a step has cost, in its usage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_stepop.hooks.modal import cost, prices
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle
from tests.support.modal import Modal
from tests.support.modal_steps import end_of

PER_S = 2 * prices.SANDBOX_CORE_S + 4 * prices.SANDBOX_GIB_S
SIZES = {"cpu": 2.0, "memory": 4096}


@pytest.fixture
def no_statistics(modal_server: Modal) -> None:
    modal_server.do("fault", kind="denied", rpc="SandboxGetTimeRangeStats")


def test_the_cost_by_the_published_rates(
    hook: ModalStepHook, submit: Callable[..., JobHandle], no_statistics: None
) -> None:
    """Also for a process that has not submitted the step. Without statistics, an outcome is no worse."""
    handle = submit(["sleep", "0.3"], settings=SIZES)
    usage = end_of(hook, handle).usage
    assert usage["cost_usd"] == pytest.approx(usage["wall_s"] * PER_S, abs=1e-6)
    assert usage["cost_source"] == "the published rates of mid 2026, at least"
    found = hook.outcome(JobHandle.from_json(handle.to_json())).usage
    assert found == {name: usage[name] for name in ("cost_usd", "cost_source")}


def test_the_statistics_of_modal_count_if_they_have_more(
    hook: ModalStepHook, submit: Callable[..., JobHandle], modal_server: Modal
) -> None:
    """A step may use more than it asks for. Statistics that lag have less, and do not count."""
    handle, other = (submit(["sleep", "0.3"], settings=SIZES) for _ in range(2))
    usage = end_of(hook, handle).usage
    end_of(hook, other)
    modal_server.do("settings", prices={"CPU": 1.0, "Memory": 0.0})
    found = hook.outcome(handle).usage
    assert found["cost_usd"] == pytest.approx(2 * usage["wall_s"], rel=0.01)
    assert found["cost_source"] == cost.BY_STATISTICS
    modal_server.do("settings", prices={"CPU": 0.0, "Memory": 0.0})
    assert hook.outcome(handle).usage["cost_usd"] == usage["cost_usd"]


def test_a_kind_of_gpu_without_a_price_has_no_cost(
    hook: ModalStepHook, submit: Callable[..., JobHandle], no_statistics: None
) -> None:
    handle = submit(settings={"gpu": "RTX-PRO-6000"})
    assert "cost_usd" not in end_of(hook, handle).usage
    assert hook.outcome(handle).usage == {}
