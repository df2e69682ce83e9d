"""What the next try asks for: more, never beyond the cap, and only where it can mean something."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG, task
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop import MoreMemory, RemoteStepOperator, ResourceSettings, StepConfigError
from airflow_stepop.core.units import format_size, parse_size
from airflow_stepop.oom import parse_on_oom

GIB = 2**30


@pytest.mark.parametrize(
    ("before", "factor", "cap", "after"),
    [
        ("4GiB", 1.5, "64GiB", "6GiB"),
        ("1GB", 1.5, "64GiB", "1431MiB"),
        ("40GiB", 2, "64GiB", "64GiB"),
        ("64GiB", 2, "64GiB", None),
        ("80GiB", 2, "64GiB", None),
        ("1MiB", 1.01, "64GiB", "2MiB"),
    ],
)
def test_after(before, factor, cap, after):
    more = MoreMemory(cap=cap, factor=factor).after(parse_size(before))
    assert (format_size(more) if more else None) == after


sizes = st.integers(min_value=1, max_value=2**50)


@given(sizes, sizes, st.floats(1.01, 100))
def test_it_grows_up_to_the_cap_and_ends_there(before, cap, factor):
    policy = MoreMemory(cap=f"{cap}B", factor=factor)
    tries = 0
    while (more := policy.after(before)) is not None:
        assert before < more <= cap
        assert more >= before * min(factor, 1.001) or more == cap
        before, tries = more, tries + 1
        assert tries < 5000
    assert before >= cap or tries == 0


@given(sizes, sizes, st.booleans())
def test_the_advice_says_what_will_happen(before, cap, has_retry):
    asked, advice = MoreMemory(cap=f"{cap}B").advice(before, has_retry)
    assert (asked is not None) == (has_retry and cap > before)
    assert asked is None or (asked in advice and "next try" in advice)
    assert cap > before or "cap" in advice


@pytest.mark.parametrize(
    "value",
    ["fail", MoreMemory(cap="64GiB"), {"cap": "64GiB"}, {"cap": "64GiB", "factor": 2}],
)
def test_what_is_valid(value):
    parsed = parse_on_oom(value)
    assert parsed is None if value == "fail" else parsed.cap == "64GiB"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("retry", 'neither "fail" nor MoreMemory'),
        (2, "neither"),
        (None, "neither"),
        ({}, "needs a cap"),
        ({"factor": 2}, "needs a cap"),
        ({"cap": "64GiB", "limit": 1}, "no limit; its fields are cap, factor"),
        ({"cap": "64"}, "has no unit"),
        ({"cap": "64GiB", "factor": 1}, "a number above 1"),
        ({"cap": "64GiB", "factor": float("nan")}, "a number above 1"),
        ({"cap": "64GiB", "factor": "2"}, "a number above 1"),
    ],
)
def test_what_is_not_valid_is_said(value, text):
    with pytest.raises(StepConfigError, match=text):
        parse_on_oom(value)


MORE = {"cap": "8GiB"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs the memory of the first try"),
        ({"resource_settings": ResourceSettings(cpu_count=1)}, "needs the memory of the first try"),
        ({"resource_settings": {"cpu_count": 1}}, "needs the memory of the first try"),
        ({"resource_settings": {"memory": "8GiB"}}, "its cap 8GiB is not more than memory='8GiB'"),
        ({"resource_settings": {"memory": "1GiB"}, "retries": 0}, "needs a next try, and retries is 0"),
    ],
)
def test_mistakes_are_found_while_the_dag_file_is_read(arguments, text):
    with pytest.raises(StepConfigError, match=text):
        RemoteStepOperator(task_id="t", command=["true"], on_oom=MORE, **arguments)


def test_what_is_known_later_is_checked_later():
    with DAG("d", schedule=None):

        @task
        def memory():
            return "4GiB"

        for size in ("{{ params.memory }}", memory()):
            RemoteStepOperator.partial(task_id=f"t{type(size).__name__}", on_oom=MORE, retries=3).expand(
                command=[["true"]]
            )
            RemoteStepOperator(
                task_id=f"s{type(size).__name__}",
                command=["true"],
                on_oom=MORE,
                resource_settings=ResourceSettings(memory=size),
            )
