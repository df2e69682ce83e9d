"""The DAG file's module exists in steps: child processes, classes and functions that go from task to task."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "modules.py")


def test_child_processes_know_the_dag_file(run):
    run.assert_state("pools")
    assert run.value("pools") == [6, 9] * 3


@pytest.mark.parametrize("name", ["in_a_step", "in_a_task"])
def test_objects_of_the_dag_file_go_from_task_to_task(run, name):
    run.assert_state(name)
    assert run.value(name) == [True, True, True, True, "RED!"]


def test_child_processes_know_classes_that_a_result_brings(run):
    run.assert_state("knows_no_class")
    plan, part = run.value("knows_no_class")
    assert plan == "Plan(item=Item(number=1), color=<Color.RED: ('#f00', 'RED!')>)"
    assert part == "Item.Part(number=2)"
