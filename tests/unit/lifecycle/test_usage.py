"""What is said about the usage of a step: readable, true to the numbers, and said when it is worth it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_stepop.core.units import parse_size
from airflow_stepop.lifecycle.usage import (
    GIB,
    LONG_ENOUGH_S,
    MEASURED,
    MIB,
    describe,
    hint,
    usage_of,
    used_cores,
)
from airflow_stepop.resources import ResourceSettings

FULL = {
    "wall_s": 12.3,
    "cpu_s": 10.1,
    "peak_memory_bytes": int(1.2 * GIB),
    "asked": {"cpu_count": 2.0, "memory_bytes": 4 * GIB},
}


@pytest.mark.parametrize(
    ("usage", "line"),
    [
        (FULL, "used 12.3 s wall, 10.1 s CPU (41 % of 2 cores asked), peak 1.2 GiB of 4 GiB asked"),
        ({"wall_s": 0.04, "cpu_s": 0.03}, "used 0.04 s wall, 0.03 s CPU"),
        ({"wall_s": 7200, "cpu_s": 150}, "used 2 h wall, 2.5 min CPU"),
        (
            {"wall_s": 10, "cpu_s": 5, "asked": {"cpu_count": 0.5}},
            "used 10 s wall, 5 s CPU (100 % of 0.5 cores asked)",
        ),
        (
            {"wall_s": 10, "cpu_s": 5, "asked": {"cpu_count": 1}},
            "used 10 s wall, 5 s CPU (50 % of 1 core asked)",
        ),
        ({"peak_memory_bytes": 150 * MIB}, "used peak 150 MiB"),
        (
            {"wall_s": 43, "installing_s": 41, "cpu_s": 1, "asked": {"cpu_count": 2}},
            "used 43 s wall, 41 s of it installing, 1 s CPU (25 % of 2 cores asked)",
        ),
        ({"wall_s": 43, "installing_s": 43, "cpu_s": 0}, "used 43 s wall, 43 s of it installing, 0 s CPU"),
        (
            {"wall_s": 1, "peak_gpu_memory_bytes": 10 * GIB, "hint": "do"},
            "used 1 s wall, peak 10 GiB of GPU memory; do",
        ),
        ({}, ""),
        ({"asked": {"cpu_count": 2}}, ""),
    ],
)
def test_one_line(usage, line):
    assert describe(usage) == line


def used(peak: float = 2 * GIB, memory: float | None = 4 * GIB, wall_s=600.0, cpu_s=600.0, cpus=None):
    asked = {"memory_bytes": memory, "cpu_count": cpus}
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_memory_bytes": peak,
        "asked": {name: value for name, value in asked.items() if value is not None},
    }


@pytest.mark.parametrize(
    ("usage", "advice"),
    [
        (used(), ""),
        (used(peak=1.2 * GIB, memory=8 * GIB), 'memory="1.5GiB" would do'),
        (used(peak=300 * MIB, memory=2 * GIB), 'memory="384MiB" would do'),
        (used(peak=100 * MIB, memory=GIB), ""),  # nobody gains much
        (used(peak=1.2 * GIB, memory=8 * GIB, wall_s=20), ""),
        (used(peak=3.7 * GIB), 'that is close to its limit: memory="5GiB" leaves room'),
        (used(peak=4 * GIB), 'that is at its limit: memory="5GiB" leaves room'),
        (used(peak=4.1 * GIB), 'that is at its limit: memory="6GiB" leaves room'),
        (used(peak=3.7 * GIB, wall_s=1), 'that is close to its limit: memory="5GiB" leaves room'),
        (used(peak=100 * GIB, memory=400 * GIB), 'memory="128GiB" would do'),
        (used(cpus=8), "cpu_count=2 would do"),
        (used(cpus=2), ""),
        (used(cpus=8, cpu_s=2400), ""),
        (used(cpus=8, wall_s=10), ""),
        (used(peak=GIB, memory=16 * GIB, cpus=16), 'memory="1.5GiB" would do, cpu_count=2 would do'),
        (used(memory=None), ""),
    ],
)
def test_a_hint_names_the_argument(usage, advice):
    assert hint(usage, is_success=True) == advice


def test_a_failed_step_is_not_told_that_less_would_do():
    assert hint(used(peak=MIB, memory=64 * GIB, cpus=16), is_success=False) == ""


# -- for any numbers

sizes = st.integers(min_value=1, max_value=2**50)
seconds = st.floats(min_value=0, max_value=1e7)
usages = st.builds(used, sizes, st.none() | sizes, seconds, seconds, st.none() | st.floats(0.1, 512))


@given(usages, st.booleans())
def test_a_hint_that_is_followed_is_not_given_again(usage, is_success):
    """And what it says leaves room over what was used."""
    advice = hint(usage, is_success)
    assume(advice)
    asked = dict(usage["asked"])
    if found := re.search(r'memory="([^"]+)"', advice):
        memory = parse_size(found.group(1))
        assert memory >= usage["peak_memory_bytes"] * 1.2
        assert (memory > asked["memory_bytes"]) == ("leaves room" in advice)
        asked["memory_bytes"] = memory
    if found := re.search(r"cpu_count=(\d+)", advice):
        assert int(found.group(1)) * usage["wall_s"] >= usage["cpu_s"]
        assert int(found.group(1)) <= asked["cpu_count"] / 2
        asked["cpu_count"] = int(found.group(1))
    assert hint({**usage, "asked": asked}, is_success) == ""


@given(usages)
def test_a_short_step_is_told_of_danger_only(usage):
    assert "would do" not in hint(
        {**usage, "wall_s": min(usage["wall_s"], LONG_ENOUGH_S / 2)}, is_success=True
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
reports = st.dictionaries(st.sampled_from([*MEASURED, "asked", "hint", "else"]), anything)


@given(reports, reports, st.booleans())
@example({"wall_s": float("nan"), "cpu_s": float("inf"), "peak_memory_bytes": -1}, {}, True)
def test_whatever_a_step_reports_becomes_one_line(measured, known, is_success):
    """A step can write into its outcome what it likes; nothing of it but sane numbers goes on."""
    usage = usage_of(measured, known, ResourceSettings(cpu_count=2, memory="4GiB"), is_success)
    assert json.loads(json.dumps(usage, allow_nan=False)) == usage
    assert set(usage) <= {*MEASURED, "asked", "hint", *known}, "the service may name fields of its own"
    assert describe(usage).count("\n") == 0
    assert (describe(usage) == "") == (usage == {})


@given(st.dictionaries(st.sampled_from(MEASURED), sizes), st.dictionaries(st.sampled_from(MEASURED), sizes))
def test_the_service_fills_what_the_runner_left_out(measured, known):
    usage = usage_of(measured, known, ResourceSettings(), True)
    assert {name: usage[name] for name in usage if name in MEASURED} == {**known, **measured}


def test_hints_are_about_the_step_and_not_about_the_installation():
    usage = {"wall_s": 900.0, "installing_s": 850.0, "cpu_s": 50.0, "asked": {"cpu_count": 4}}
    assert hint(usage, True) == "", "the step itself was short"
    assert hint({**usage, "installing_s": 800.0, "cpu_s": 100.0}, True) == "cpu_count=2 would do"
    assert used_cores({**usage, "installing_s": 800.0}) == 0.5
    assert used_cores({**usage, "installing_s": 900.0}) is None


def test_the_fields_of_a_service_are_in_the_usage():
    service = {
        "wall_s": 90,
        "billable_s": 60,
        "spot_saving": 0.333,
        "instance_type": "ml.m5.large",
        "instance_count": 1,
        "model_uri": "s3://bucket/model",
        "odd": [1],
        "text": "x" * 5000,
        "nul": "a\0b",
        "asked": {"cpu_count": 99},
    }
    found = usage_of({"wall_s": 80.0}, service, ResourceSettings(cpu_count=2), is_success=True)
    own = {name: service[name] for name in ("billable_s", "spot_saving", "instance_type", "instance_count")}
    assert found == {**own, "model_uri": "s3://bucket/model", "wall_s": 80.0, "asked": {"cpu_count": 2}}
    assert describe(found) == (
        "used 80 s wall, billable 60 s, spot saving 33 %, instance type ml.m5.large, instance count 1, "
        "model uri s3://bucket/model"
    )


def test_the_fields_of_a_service_are_enough_for_a_usage():
    """The runner was killed, and measured nothing."""
    found = usage_of({}, {"billable_s": 200}, ResourceSettings(), is_success=False)
    assert describe(found) == "used billable 3.33 min"


def test_a_step_cannot_name_fields_of_the_service():
    assert usage_of({"billable_s": 1}, {}, ResourceSettings(), is_success=True) == {}
