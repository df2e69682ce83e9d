"""Results reach other tasks in ``dag.test()``; ``tests/airflow_deployed`` runs that DAG in a real Airflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED = HERE.parent / "airflow_deployed" / "dags"

pytestmark = [pytest.mark.timeout(900)]

CHECKS = {
    "every_kind_of_value": ["check_values", "check_values_as_one", "check_values_in_a_step", "check_none"],
    "arrays_are_writable": ["check_arrays", "check_array", "check_array_in_a_step"],
    "tables": ["check_tables", "check_tables_in_a_step"],
    "classes_of_the_dag_file": ["check_classes", "check_classes_in_a_step"],
    "nested_in_lists_dicts_objects": ["check_nested", "check_nested_in_a_step"],
    "multiple_outputs": ["check_outputs", "check_outputs_in_a_step"],
    "xcom_pull": ["check_pulled"],
    "partial": ["check_partial[0]", "check_partial[1]", "scale[0]", "scale[1]"],
    "mapped_results_as_one_list": ["check_aggregated", "check_aggregated_in_a_step"],
    "expand_over_numbers": ["check_number[2]", "check_item_in_a_step[0]", "check_item_in_a_step[2]"],
    "expand_over_objects": [
        "check_item[0]",
        "check_item[2]",
        *(f"check_object_in_a_step[{i}]" for i in range(3)),
    ],
    "expand_over_a_dict": [
        "check_mapping[0]",
        "check_mapping[1]",
        *(f"check_mapping_in_a_step[{i}]" for i in (0, 1)),
    ],
    "expand_kwargs": [
        "check_kwargs[0]",
        "check_kwargs[1]",
        *(f"check_kwargs_in_a_step[{i}]" for i in (0, 1)),
    ],
    "map_a_function": ["check_mapped_over_function[0]", "check_mapped_over_function[2]"],
    "deferred": ["check_deferred", "deferred", "deferred_outputs"],
}


@pytest.fixture(scope="module")
def run(airflow_process, place):
    return airflow_process.run(SHARED / "results.py", place=place)


@pytest.fixture(scope="module")
def many(airflow_process, place):
    return airflow_process.run(HERE / "dags" / "many.py", place=place)


@pytest.mark.parametrize("tasks", CHECKS.values(), ids=CHECKS)
def test_results_arrive(run, tasks):
    for task in tasks:
        run.assert_state(task)


def test_nothing_else_failed(run):
    assert {task for task, state in run.states.items() if state != "success"} == {"never"}


def test_small_json_is_plain_in_xcom(run):
    assert run.value("numbers") == [1, 2, 3]
    assert run.xcoms["outputs"]["small"] == 1
    assert "return_value" not in run.xcoms["none"], "as for any task of Airflow"
    assert run.value("mapping")["a"] == 1


def test_nothing_to_map_over_skips(run):
    run.assert_state("never", "skipped")


def test_large_values_lie_in_the_store_and_small_ones_do_not(run):
    (file,) = run.results("heavy")
    assert file.size > 60 * 1024
    assert len(json.dumps(run.value("heavy"))) < 2_000
    assert run.results("first") == []
    assert run.results("numbers") == []


def test_a_step_reads_what_another_one_wrote_and_the_worker_never_loads_it(run, airflow_process):
    places = [line.split()[0] for line in (run.place.marks / "heavy.loaded").read_text().splitlines()]
    assert set(places) == {"step"}
    assert "worker" in (run.place.marks / "outputs.loaded").read_text(), "an ordinary task does"


def test_a_result_that_nobody_wants_is_not_kept(run, airflow_process):
    """``do_xcom_push=False``"""
    assert "return_value" not in run.xcoms.get("dropped", {})
    assert run.results("dropped") == []
    assert not (run.place.marks / "dropped.loaded").exists()


def test_another_dag_reads_results(run, airflow_process):
    reader = airflow_process.run(
        SHARED / "results_reader.py", place=run.place, conf={"run_id": run.answer["run_id"]}
    )
    assert set(reader.states.values()) == {"success"}, reader.states


def test_many_values_fill_the_store_and_not_the_database(many):
    assert set(many.states.values()) == {"success"}, many.states
    found = many.results("objects")
    assert len(found) >= 190 if many.place.kind == "folder" else 1 <= len(found) <= 64
    assert sum(one.size for one in found) > 190 * 256
    assert len(json.dumps(many.value("objects"))) < 200_000, "two hundred references"
    assert (
        max(len(json.dumps(value)) for key, value in many.xcoms["objects"].items() if key != "return_value")
        < 20_000
    )
    assert max(map(len, many.records.values())) < 64_000


def test_many_small_values_stay_plain(many):
    assert many.value("numbers") == {f"n{index}": index / 3 for index in range(200)}
