"""What a sandbox costs at least, and that the page of the backend has the same rates."""

from __future__ import annotations

import re

import pytest

from airflow_stepop.hooks.modal import prices
from airflow_stepop.hooks.modal.gpus import KINDS
from airflow_stepop.hooks.modal.not_settings import NOT_SETTINGS
from airflow_stepop.hooks.modal.settings import FIELDS, ModalSettings
from tests.support.paths import DOCS

PAGE = (DOCS / "backends" / "modal.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the rows of a section whose first cell is code."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, heading
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, 0.125 * prices.SANDBOX_CORE_S + 0.125 * prices.SANDBOX_GIB_S),
        ({"cpu": 4.0, "memory": [16384, 16384]}, 4 * prices.SANDBOX_CORE_S + 16 * prices.SANDBOX_GIB_S),
        ({"cpu": [2.0, 8.0]}, 2 * prices.SANDBOX_CORE_S + 0.125 * prices.SANDBOX_GIB_S),
    ],
)
def test_a_sandbox_costs_what_it_requests(request_: dict[str, object], expected: float) -> None:
    assert prices.least_cost(request_, 10.0) == pytest.approx(10 * expected)
    for region, factor in ((["us"], 1.5), (["us-east"], 1.75), (["us-east", "eu"], 1.5)):
        found = prices.least_cost({**request_, "region": region}, 10.0)
        assert found == pytest.approx(10 * factor * expected)


def test_gpus_cost_as_many_times_as_there_are() -> None:
    one, two = (prices.least_cost({"gpu": gpu}, 3600.0) for gpu in ("T4", "T4:2"))
    assert one is not None
    assert two is not None
    assert two - one == pytest.approx(3600 * 0.000164)
    assert prices.least_cost({"gpu": "RTX-PRO-6000"}, 1.0) is None


def test_a_sandbox_costs_three_times_a_function() -> None:
    """As the page says; the rates are rounded."""
    assert pytest.approx(3, rel=0.02) == prices.SANDBOX_CORE_S / prices.FUNCTION_CORE_S
    assert pytest.approx(3, rel=0.02) == prices.SANDBOX_GIB_S / prices.FUNCTION_GIB_S


# -- the page


def test_the_rates_of_the_page_are_those_of_the_code() -> None:
    table = {name.strip("`"): cells for name, *cells in rows("Prices")}
    for name, sandbox, function in (
        ("cpu", prices.SANDBOX_CORE_S, prices.FUNCTION_CORE_S),
        ("memory", prices.SANDBOX_GIB_S, prices.FUNCTION_GIB_S),
    ):
        assert [float(cell) for cell in table[name][1:]] == [
            round(3600 * sandbox, 4),
            round(3600 * function, 4),
        ]
    assert f"in {prices.PRICES_OF}" in PAGE


def test_every_kind_of_gpu_is_on_the_page_with_its_price() -> None:
    table = {name.strip("`"): cells for name, *cells in rows("GPUs")}
    assert list(table) == [kind.name for kind in KINDS]
    for kind in KINDS:
        memory, most, price, about = table[kind.name]
        shown = "" if kind.price_per_s is None else f"{3600 * kind.price_per_s:.2f}"
        assert (memory, most, price) == (f"{kind.memory_gb} GB", str(kind.largest_count), shown)
        assert about == kind.about


def test_every_setting_is_explained_with_its_argument() -> None:
    table = {name.strip("`"): field.strip("`") for name, field, _ in rows("Settings")}
    assert list(table) == list(ModalSettings.model_fields)
    assert {name: table[name] for name in FIELDS} == dict(FIELDS)


def test_names_that_the_page_refuses_are_refused() -> None:
    named = re.findall(r"`(\w+)`", PAGE.partition("are refused with the reason: ")[2].partition(".\n")[0])
    assert len(named) >= 5
    assert set(named) <= set(NOT_SETTINGS)
