"""What a step used is in its task's log and in an XCom, however the step ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "usage.py")


@pytest.mark.parametrize(
    ("task", "state"),
    [("holds", "success"), ("fails", "failed"), ("too_much", "failed"), ("nothing_asked", "success")],
)
def test_the_log_says_it_in_one_line(run, task, state):
    run.assert_state(task, state)
    asked = "" if task == "nothing_asked" else " of 256 MiB asked"
    number = r"[\d.]+"
    cores = "" if task == "nothing_asked" else r" \(\d+ % of 1 core asked\)"
    line = rf"used {number} s wall, {number} s CPU{cores}, peak {number} MiB{asked}"
    assert len(re.findall(line, run.log(task))) == 1, run.log(task)


@pytest.mark.parametrize(
    ("task", "least", "most"),
    [("holds", 100, 200), ("fails", 100, 200), ("too_much", 256, 500), ("nothing_asked", 1, 100)],
)
def test_the_xcom_has_the_numbers(run, task, least, most):
    usage = run.xcoms[task]["usage"]
    assert least * MIB < usage["peak_memory_bytes"] < most * MIB
    assert usage["wall_s"] > 0
    assert usage["cpu_s"] > 0
    assert usage["asked"] == (
        {} if task == "nothing_asked" else {"cpu_count": 1.0, "memory_bytes": 256 * MIB}
    )


def test_a_step_that_ran_out_of_memory_is_told_what_to_ask_for(run):
    assert re.search(r'that is at its limit: memory="\d+MiB" leaves room', run.log("too_much"))


def test_a_step_that_was_stopped_has_its_usage(run):
    run.assert_state("too_long", "failed")
    assert 0.2 < run.xcoms["too_long"]["usage"]["wall_s"] < 30


def test_every_instance_of_a_mapped_task_has_its_own(run):
    first, second = (run.xcoms[f"mapped[{index}]"]["usage"]["peak_memory_bytes"] for index in (0, 1))
    assert first < 100 * MIB < second


def test_without_xcoms_there_is_none(run):
    run.assert_state("no_xcom")
    assert "usage" not in run.xcoms.get("no_xcom", {})
    assert "used " in run.log("no_xcom")


def test_a_value_of_that_name_wins(run):
    run.assert_state("own_usage")
    assert run.value("own_usage") == {"usage": "the step's own", "other": 1}
    assert run.xcoms["own_usage"]["usage"] == "the step's own"


def test_another_task_can_read_it(run):
    run.assert_state("reads")
    assert run.value("reads") == run.xcoms["holds"]["usage"]["peak_memory_bytes"]
