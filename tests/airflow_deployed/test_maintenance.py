"""The example DAG that cleans up, in a real Airflow, which hides its database from tasks."""

from __future__ import annotations


def test_the_example_cleans_up(airflow):
    """Both commands find the database all the same."""
    run_id = airflow.trigger("maintenance")
    states = airflow.wait_run("maintenance", run_id)
    log = "".join(airflow.log("maintenance", run_id, task)[-3000:] for task in ("sweep", "collect"))
    assert set(states.values()) == {"success"}, log
    assert airflow.xcom("maintenance", run_id, "sweep").startswith("0 cancelled, 0 deleted")


def test_a_task_has_no_database(airflow):
    """As the page says: without the database's address the command fails and deletes nothing."""
    run_id = airflow.trigger("no_database")
    assert airflow.wait_run("no_database", run_id) == {"sweep": "success"}
    assert airflow.xcom("no_database", run_id, "sweep") == "exit code 1"
