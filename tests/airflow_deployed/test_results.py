"""Results in a real Airflow, with the DAGs that ``tests/airflow_in_process`` runs with ``dag.test()``."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def run(airflow):
    run_id = airflow.trigger("results")
    return run_id, airflow.wait_run("results", run_id)


def place(task: str) -> tuple[str, int, int]:
    """Return (task id, try, map index)."""
    name, _, index = task.rstrip("]").partition("[")
    return name, 1, int(index or -1)


def test_every_result_arrives(airflow, run):
    run_id, states = run
    failed = {task: state for task, state in states.items() if state != "success"}
    never = failed.pop("never", None)
    logs = [
        airflow.log("results", run_id, *place(task))[-3000:] for task in failed if failed[task] == "failed"
    ]
    assert failed == {}, "\n\n".join(logs)
    assert never == "skipped"
    assert len([task for task in states if task.startswith("check_")]) > 30


def test_small_json_is_plain_and_objects_are_references(airflow, run):
    run_id, _ = run
    assert airflow.xcom("results", run_id, "numbers") == [1, 2, 3]
    assert airflow.xcom("results", run_id, "outputs", "small") == 1
    assert airflow.xcom("results", run_id, "first")["__classname__"] == "airflow_stepop.results.StepResult"


def test_a_large_result_goes_from_step_to_step_past_the_worker(airflow, run):
    places = [line.split()[0] for line in (airflow.marks / "heavy.loaded").read_text().splitlines()]
    assert set(places) == {"step"}
    assert not (airflow.marks / "dropped.loaded").exists()


def test_the_ui_never_loads_a_result(airflow, run):
    """The API server shows references, since it has neither the results' classes nor the memory."""
    run_id, _ = run
    before = (airflow.marks / "outputs.loaded").read_text()
    path = f"dags/results/dagRuns/{run_id}/taskInstances/outputs/xcomEntries"
    for options in (
        {},
        {"deserialize": "true"},
        {"stringify": "true"},
        {"deserialize": "true", "stringify": "true"},
    ):
        for key in ("large", "point", "return_value"):
            assert airflow.get(f"{path}/{key}", **options)["key"] == key
    assert (airflow.marks / "outputs.loaded").read_text() == before


def test_another_dag_reads_results(airflow, run):
    reader = airflow.trigger("results_reader", {"run_id": run[0]})
    assert set(airflow.wait_run("results_reader", reader).values()) == {"success"}


def test_names_with_letters_of_many_alphabets(airflow):
    name = ("ünï-çødé.漢字_" * 30)[:100]
    with airflow.scheduler_without_metrics():
        run_id = airflow.trigger(name)
        assert airflow.wait_run(name, run_id) == {name: "success", "check": "success"}
